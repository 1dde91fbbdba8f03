"""The memory rows of a problem: maximal live sets only, and only those that can run over the limit.

Rows are kept as spans: a load is in all rows from `start` up to `stop`. Prices, totals and maxima over rows then cost
as much as there are spans, not rows times loads.

Most loads are small beside the limit. Where they are taken to hold the least they can (`lighter`), a choice holds no
more than it does, so what is proven stays proven; and their nodes hold nothing that varies, so presolve may have them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from copy import copy

import numpy as np

from .problem import Problem
from .scoring import Scoring

Array = np.ndarray


class Memory:
    """Which loads each memory row adds up. Load `n` is node `n`, load `N + e` is edge `e`; bytes are never negative.

    Attributes:
        limit: Bytes.
        loads: How many loads the problem has.
        rows: How many rows are left of it.
        load: The load of each span.
        start: Its first row.
        stop: The row after its last.
        light: Mask of the loads that are taken to hold `least`, whatever the choice.
        least: The fewest bytes of each load.
    """

    def __init__(self, problem: Problem, scoring: Scoring | None = None) -> None:
        self.scoring = scoring or Scoring(problem)
        self.limit = problem.limit
        self.least, most = _ranges(problem)
        self.loads, self.light = len(most), np.zeros(len(most), bool)
        live, counted = problem.live, most[problem.live.load] > 0
        self.load, self.start, self.stop = (a[counted] for a in (live.load, live.start, live.stop))
        self.rows = len(live.labels)
        self._keep(_maximal(self.start, self.stop, self.rows) & (self.totals(most) > self.limit))
        self.varies = np.where(self.counted, most - self.least, 0.0)

    def _keep(self, kept: Array) -> None:
        """Only the rows of a mask."""
        before = np.concatenate([[0], kept.cumsum()])
        start, stop = before[self.start], before[self.stop]
        some = start < stop
        self.load, self.start, self.stop, self.rows = self.load[some], start[some], stop[some], int(kept.sum())

    @property
    def counted(self) -> Array:
        """Mask of the loads that some row counts."""
        mask = np.zeros(self.loads, bool)
        mask[self.load] = True
        return mask

    def totals(self, held: Array) -> Array:
        """Bytes of each row, of the bytes of each load."""
        change = np.bincount(self.start, held[self.load], self.rows + 1)
        change -= np.bincount(self.stop, held[self.load], self.rows + 1)
        return change.cumsum()[:-1]

    def weights(self, price: Array) -> Array:
        """What a byte of each load costs in all its rows together."""
        until = np.concatenate([[0.0], price.cumsum()])
        return np.bincount(self.load, until[self.stop] - until[self.start], self.loads)

    def counts(self, row: int) -> Array:
        """How many times a row counts each load."""
        return np.bincount(self.load[(self.start <= row) & (row < self.stop)], minlength=self.loads)

    def held(self, choice: Sequence[int]) -> Array:
        """Bytes of each load under a choice of the whole problem."""
        return np.where(self.light, self.least, self.scoring.held(choice))

    def used(self, choice: Sequence[int]) -> Array:
        """Bytes of each row under a choice of the whole problem."""
        return self.totals(self.held(choice))

    def lighter(self, share: float) -> Memory | None:
        """The same rows, which as many loads as together vary by `share` of the limit in any of them hardly change.

        Returns:
            None if no load is that small, or all are.
        """
        steps = np.unique(self.varies[self.varies > 0])
        few = bisect_left(steps, True, key=lambda step: self._varying(step).max(initial=0.0) > share * self.limit)
        if few in (0, len(steps)):
            return None
        other = copy(self)
        other.light = self.varies <= steps[few - 1]
        return other

    def _varying(self, step: float) -> Array:
        """By how much the loads that vary by at most `step` vary in each row."""
        return self.totals(np.where(self.varies <= step, self.varies, 0.0))


def _ranges(problem: Problem) -> tuple[Array, Array]:
    """The least and the most bytes of each load."""
    nodes = (u[np.isfinite(c)] for u, c in zip(problem.usage, problem.cost))
    edges = (np.zeros(0) if e.usage is None else e.usage[np.isfinite(e.cost)] for e in problem.edges)
    found = [(held.min(), held.max()) if len(held) else (0.0, 0.0) for held in (*nodes, *edges)]
    least, most = np.array(found, dtype=float).reshape(-1, 2).T
    return least, most


def _maximal(start: Array, stop: Array, rows: int) -> Array:
    """The rows that no next row contains: rows where something ends, and something began since the last such row."""
    begins, ends = np.zeros(rows + 1, bool), np.zeros(rows + 1, bool)
    begins[start], ends[stop] = True, True
    if not rows:
        return begins[:-1]
    lasts = np.flatnonzero(ends[1:] | (np.arange(rows) == rows - 1))
    fresh = begins[:-1].cumsum()
    mask = np.zeros(rows, bool)
    mask[lasts[np.diff(fresh[lasts], prepend=0) > 0]] = True
    return mask


def lowest(values: Array, start: Array, stop: Array) -> Array:
    """The least of `values[start:stop]` of each span, none of which is empty."""
    length = np.frexp(stop - start)[1] - 1  # floor of the binary logarithm
    table = [values]
    for level in range(int(length.max(initial=0))):
        step, last = 1 << level, table[-1]
        table.append(np.minimum(last[:-step], last[step:]))
    flat, offset = np.concatenate(table), np.cumsum([0, *(len(t) for t in table[:-1])])
    return np.minimum(flat[offset[length] + start], flat[offset[length] + stop - (1 << length)])
