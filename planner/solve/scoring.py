"""Seconds and bytes of many choices of one problem, quickly: its tables laid end to end, looked up all at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .problem import Array, Problem


class Scoring:
    """A problem's numbers in flat arrays. What counts in the end is what `evaluate` and `peak` say."""

    def __init__(self, problem: Problem) -> None:
        self.live, self.limit = problem.live, problem.limit
        self._cost, self._usage = _Flat(problem.cost), _Flat(problem.usage)
        edges = problem.edges
        self._u, self._v = (np.array([getattr(e, end) for e in edges], np.intp) for end in "uv")
        self._row, self._col = _Flat([e.row for e in edges]), _Flat([e.col for e in edges])
        self._table, self._width = _Flat([e.cost.ravel() for e in edges], [e.cost for e in edges]), _widths(edges)
        self._holds = np.array([i for i, e in enumerate(edges) if e.usage is not None], np.intp)
        held = [e.usage for e in edges if e.usage is not None]
        self._held = _Flat([usage.ravel() for usage in held], held)

    def seconds(self, choice: Sequence[int]) -> float:
        """The objective of a choice."""
        x = np.asarray(choice, np.intp)
        return float(self._cost[x].sum() + self._table[self._cells(x)].sum())

    def held(self, choice: Sequence[int]) -> Array:
        """Bytes of each load of a choice."""
        x = np.asarray(choice, np.intp)
        edges = np.zeros(len(self._u))
        edges[self._holds] = self._held[self._cells(x)[self._holds]]
        return np.concatenate([self._usage[x], edges])

    def peak(self, choice: Sequence[int]) -> float:
        """Bytes of a choice at its fullest moment."""
        return float(self.live.totals(self.held(choice)).max(initial=0.0))

    def within(self, choice: Sequence[int]) -> float:
        """The objective of a choice; infinite over the limit."""
        seconds = self.seconds(choice)
        return seconds if np.isfinite(seconds) and self.peak(choice) <= self.limit else np.inf

    def _cells(self, x: Array) -> Array:
        return self._row[x[self._u]] * self._width + self._col[x[self._v]]


def _widths(edges: Sequence[object]) -> Array:
    return np.array([e.cost.shape[1] for e in edges], np.intp)  # type: ignore[attr-defined]


class _Flat:
    """Arrays laid end to end, equal objects once; `flat[at]` takes entry `at[i]` of array `i`."""

    def __init__(self, arrays: Sequence[Array], owners: Sequence[object] | None = None) -> None:
        first: dict[int, int] = {}
        parts, offset, offsets = [], 0, []
        for array, owner in zip(arrays, owners or arrays):
            if id(owner) not in first:
                first[id(owner)] = offset
                parts.append(array)
                offset += len(array)
            offsets.append(first[id(owner)])
        self._values = np.concatenate(parts) if parts else np.zeros(0, np.intp)
        self._offsets = np.array(offsets, np.intp)

    def __getitem__(self, at: Array) -> Array:
        return self._values[self._offsets + at]
