"""Costs and bytes between two nodes. A table never changes and may serve many pairs; what it works out it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

Array = np.ndarray
CACHE = 1 << 16  # numbers
SAMPLE = 16  # columns that are looked at first: they tell most rows apart
BARRED = 1e300  # dearer than anything that is possible


@dataclass(frozen=True, eq=False)
class Table:
    """Costs and bytes over distinct specs: `cost[row[s], col[t]]`, likewise each of `held`.

    Attributes:
        row: For each strategy of the first node, its row. All rows are in use.
        col: For each strategy of the second node, its column. All columns are in use.
        cost: Seconds, infinite where a pair is impossible.
        held: Bytes of loads on the pair, each of the shape of `cost`.
    """

    row: Array
    col: Array
    cost: Array
    held: tuple[Array, ...] = ()

    @cached_property
    def T(self) -> Table:
        """The same table seen from the other node."""
        cost, *held = (np.ascontiguousarray(a.T) for a in (self.cost, *self.held))
        other = Table(self.col, self.row, cost, tuple(held))
        other.__dict__["T"] = self
        return other

    @cached_property
    def possible(self) -> Array:
        """Which pairs of specs are possible."""
        return np.isfinite(self.cost)

    @cached_property
    def sound(self) -> bool:
        """Whether every row and every column has a possible pair."""
        return bool(self.possible.any(axis=1).all() and self.possible.any(axis=0).all())

    @cached_property
    def varies(self) -> tuple[bool, ...]:
        """Which of the loads hold more on some pairs than on others."""
        return tuple(bool(held.min() < held.max()) for held in self.held)

    @cached_property
    def spans(self) -> tuple[tuple[float, float], ...]:
        """The least and the most of each load on possible pairs; infinity and minus infinity on none."""
        some = (held[self.possible] for held in self.held)
        return tuple((float(held.min(initial=np.inf)), float(held.max(initial=-np.inf))) for held in some)

    @cached_property
    def functional(self) -> bool:
        """Whether each strategy of the second node leaves the first one no choice."""
        width = np.bincount(self.row, minlength=len(self.cost))
        return bool((width @ self.possible == 1).all())

    @cached_property
    def grouped(self) -> tuple[Array | None, Array]:
        """The first node's strategies row by row (None if each has its own, in order), and where each row begins."""
        distinct = len(self.cost) == len(self.row) and (np.diff(self.row) > 0).all()
        order = None if distinct else np.argsort(self.row, kind="stable")
        return order, np.searchsorted(self.row if order is None else self.row[order], np.arange(len(self.cost)))

    @cached_property
    def least(self) -> Array:
        """How much more row p can cost than row q at least, shape [p, q]: in some columns, of those that q allows."""
        some = self.cost[:, :: max(1, self.cost.shape[1] // SAMPLE)].T
        ruled_out, out = np.isinf(some), np.full((len(self.cost), len(self.cost)), -BARRED)
        for most, floor in zip(np.where(ruled_out, BARRED, some), np.where(ruled_out, -np.inf, -some)):
            np.maximum(out, most[:, None] + floor, out=out)
        return np.where(out > BARRED / 2, np.inf, out)

    @cached_property
    def parts(self) -> tuple[Array, Array] | None:
        """What rows and columns cost, where the table is but the sum of the two."""
        if not self.possible.all() or (self.cost[-1, 0] - self.cost[0, 0] + self.cost[0] != self.cost[-1]).any():
            return None
        rows = self.cost - self.cost[0, 0]
        apart = (rows[:, :1] + self.cost[:1]) == self.cost
        return (rows[:, 0], self.cost[0]) if apart.all() else None


def parts(a: Array, width: int) -> list[Array]:
    """The rows of `a`, as many at a time as keep `width` numbers for each of them in cache."""
    step = max(1, CACHE // max(1, width))
    return np.split(a, range(step, len(a), step))


def take(table: Table, kept: Array) -> Table:
    """The table when the first node keeps only the strategies of a mask."""
    used, row = _renumbered(table.row[kept], len(table.cost))
    if len(used) == len(table.cost):
        return Table(row, table.col, table.cost, table.held)
    return Table(row, table.col, table.cost[used], tuple(held[used] for held in table.held))


def through(table: Table, image: Array) -> Table:
    """The table of the node whose strategy t stands for strategy `image[t]` of the first one."""
    used, row = _renumbered(table.row[image], len(table.cost))
    return Table(row, table.col, table.cost[used], tuple(held[used] for held in table.held))


def _renumbered(row: Array, rows: int) -> tuple[Array, Array]:
    """The rows in use, ascending, and where in them each of `row` is."""
    used = np.zeros(rows, bool)
    used[row] = True
    return np.flatnonzero(used), (used.cumsum() - 1)[row]


def add(a: Table, b: Table) -> Table:
    """The sum of two tables of the same pair; its specs are the joint ones, its loads those of both."""
    row, rows = joint(a.row, b.row)
    col, cols = joint(a.col, b.col)
    mine, theirs = np.ix_(rows[0], cols[0]), np.ix_(rows[1], cols[1])
    held = (*(h[mine] for h in a.held), *(h[theirs] for h in b.held))
    return Table(row, col, a.cost[mine] + b.cost[theirs], held)


def joint(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """Number the distinct pairs (a[s], b[s]): the number for each s, and the pair for each number."""
    width = int(b.max(initial=0)) + 1
    pairs, index = np.unique(a * width + b, return_inverse=True)
    return index, (pairs // width, pairs % width)


def compact(row: Array, col: Array, cost: Array, *held: Array) -> Table:
    """A table from an edge's: unused and equal rows and columns go."""
    table = Table(row, col, cost, held)
    for _ in range(2):
        table = _distinct(take(table, np.ones(len(table.row), bool))).T
    return table


def _distinct(table: Table) -> Table:
    lines = np.concatenate([table.cost, *table.held], axis=1) + 0.0  # no negative zeros: equal lines are equal bytes
    place: dict[bytes, int] = {}
    index = np.array([place.setdefault(line.tobytes(), len(place)) for line in lines], np.intp)
    if len(place) == len(lines):
        return table
    first = np.unique(index, return_index=True)[1]  # in the order of first appearance
    return Table(index[table.row], table.col, table.cost[first], tuple(h[first] for h in table.held))
