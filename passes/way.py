"""From one layout of a value to another, as steps: which axes slice, scatter, exchange, gather, in which order.

From `P("x", None)` to `P(None, "y")`: slice along y, then all_gather over x. Slices come first, they shrink what
follows; then reduce_scatter, all_to_all, all_reduce; all_gather comes last.

A dim is written as digits, major to minor, one for each axis that passes through it, and the rest. An axis may scatter
behind digits that other axes will take when they come, and is gathered behind digits that others have left: to
`P(("x", "y"))` y is scattered `behind` x, which the all_to_all then brings. So the axes of a dim need not come and go
in the order in which they stand. Only what stays while a more major axis leaves, or was there before one that shall
stand before it, is permuted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.sharding import PartitionSpec

PLANE = 2

Axes = tuple[str, ...]
Sizes = Mapping[str, int]
Torus = Mapping[str, tuple[tuple[int, int], ...]]
"""The torus axes that each mesh axis walks, by number, and its devices along them; empty where there is no torus."""


@dataclass(frozen=True)
class Shard:
    """How a value lies on the devices.

    Attributes:
        dims: For each dim the mesh axes that split it, major to minor.
        open: Axes over which devices hold parts that are still to be combined.
        how: How: "sum", "max", "min", "mul", "or", "and".
    """

    dims: tuple[Axes, ...]
    open: frozenset[str] = frozenset()
    how: str = "sum"

    @property
    def spec(self) -> PartitionSpec:
        """As a spec, for a value with nothing left to combine."""
        return PartitionSpec(*self.dims)

    @property
    def closed(self) -> "Shard":
        """The same with everything combined."""
        return Shard(self.dims)


@dataclass(frozen=True)
class Step:
    """One move: `slice`, `reduce_scatter`, `all_to_all`, `all_reduce`, `all_gather`, `permute`.

    Attributes:
        dim: The dim that axes leave or enter.
        goal: For an all_to_all, the dim that each axis enters; `source` is the one that each leaves, and `order` are
            the axes as they stand in the dims that they leave.
        how: How parts are combined.
        order: For a permute, the new order of the axes of the dim.
        behind: Axes whose digits, whole on each device, stand before those that enter or leave the dim.
    """

    kind: str
    axes: Axes
    dim: int = -1
    how: str = "sum"
    order: Axes = ()
    source: tuple[int, ...] = ()
    goal: tuple[int, ...] = ()
    behind: Axes = ()


def steps(have: Shard, want: Shard, torus: Torus | None = None) -> list[Step]:
    """The moves between two layouts.

    Args:
        have: The layout that is.
        want: The one that is wanted.
        torus: What the mesh axes walk.

    Raises:
        ValueError: An open sum would have to be made.
    """
    if strange := want.open - have.open:
        raise ValueError(f"a whole value cannot become parts over {sorted(strange)}")
    return list(_Way(have, want, torus or {}).steps())


def nearest(have: Iterable[Shard], want: Shard) -> Shard:
    """The layout to move from: one that needs no collective, else the first, where the value rests."""
    possible = [shard for shard in have if want.open <= shard.open]
    free = (shard for shard in possible if all(step.kind == "slice" for step in steps(shard, want)))
    return next(free, possible[0])


def parts_of(kind: str, axes: Axes, torus: Torus) -> list[Axes]:
    """The mesh axes of one gather or scatter in groups, major to minor, each of which is a collective of its own.

    None walks more than two torus axes, and a reduce_scatter never walks all of a square or cube, unless one mesh axis
    alone does: that becomes an all_reduce (libtpu 0.0.42).
    """
    most = _most_scattered(torus) if kind == "reduce_scatter" else PLANE
    found: list[Axes] = [()]
    for axis in axes:
        walked = _lengths(torus, (*found[-1], axis))
        found[-1:] = [found[-1], (axis,)] if found[-1] and len(walked) > most else [(*found[-1], axis)]
    return found


def _most_scattered(torus: Torus) -> int:
    lengths = _lengths(torus, torus)
    return max(1, min(PLANE, len(lengths) - 1)) if len(set(lengths)) == 1 else PLANE


def _lengths(torus: Torus, axes: Iterable[str]) -> list[int]:
    """Devices along each torus axis that some mesh axes walk together."""
    found: dict[int, int] = {}
    for line, n in (walk for axis in axes for walk in torus.get(axis, ())):
        found[line] = found.get(line, 1) * n
    return [n for n in found.values() if n > 1]


@dataclass
class _Dim:
    """The digits of one dim: axes, major to minor, of which some are `whole` on each device, the others split it."""

    digits: list[str]
    whole: set[str] = field(default_factory=set)

    @property
    def split(self) -> Axes:
        """The axes that split it."""
        return tuple(axis for axis in self.digits if axis not in self.whole)

    def before(self, axis: str) -> Axes:
        """The whole digits before an axis's own."""
        return tuple(a for a in self.digits[: self.digits.index(axis)] if a in self.whole)

    def runs(self, axes: Iterable[str]) -> list[Axes]:
        """Split axes in groups whose digits are neighbours, or have only other split axes between them."""
        found: list[Axes] = []
        for axis in sorted(axes, key=self.digits.index):
            if found and self.before(found[-1][0]) == self.before(axis):
                found[-1] = (*found[-1], axis)
            else:
                found.append((axis,))
        return found


class _Way:
    def __init__(self, have: Shard, want: Shard, torus: Torus):
        self.torus = torus
        self.now = [_Dim(list(axes)) for axes in have.dims]
        self.want = want
        self.goal = {axis: d for d, axes in enumerate(want.dims) for axis in axes}
        self.opened = have.open - want.open
        self.how = have.how

    def steps(self) -> Iterator[Step]:
        self.make_room()
        yield from self.slices(early=True)
        yield from self.scatters()
        yield from self.exchanges()
        if reduced := tuple(sorted(self.opened - self.goal.keys())):
            yield Step("all_reduce", reduced, how=self.how)
        yield from self.gathers()
        yield from self.slices(early=False)
        for d, axes in enumerate(self.want.dims):
            yield from self.reorder(d, axes)

    def leaves(self, d: int, axis: str) -> bool:
        """Whether an axis that splits a dim will not stay there."""
        return self.goal.get(axis) != d

    def arriving(self, d: int, among: Sequence[str]) -> Axes:
        """The axes that are to come to a dim, in the order in which it wants them."""
        return tuple(axis for axis in self.want.dims[d] if axis in among)

    def make_room(self) -> None:
        """Digits for the axes that the first exchange brings, so that slices and scatters come to stand behind them."""
        split = {axis: d for d, dim in enumerate(self.now) for axis in dim.split}
        for d, dim in enumerate(self.now):
            wanted, fresh = self.want.dims[d], self.want.dims[d][len(dim.digits) :]
            coming = [axis for axis in fresh if axis in split]
            if coming and tuple(dim.digits) == wanted[: len(dim.digits)]:
                dim.digits.extend(fresh)
                dim.whole.update(fresh)

    def enter(self, kind: str, d: int, fresh: Axes, **options: Any) -> Iterator[Step]:
        """Axes take their digits in a dim, behind those that others will take."""
        dim = self.now[d]
        dim.digits.extend(axis for axis in fresh if axis not in dim.digits)
        dim.whole.difference_update(fresh)
        for run in dim.runs(fresh):
            parts = parts_of(kind, run, self.torus) if kind == "reduce_scatter" else [run]
            yield from (Step(kind, part, d, behind=dim.before(run[0]), **options) for part in parts)

    def slices(self, early: bool) -> Iterator[Step]:
        used = {axis for dim in self.now for axis in dim.split} | self.opened
        for d, dim in enumerate(self.now):
            fresh = self.arriving(d, [axis for axis in self.goal if axis not in used])
            if fresh and not (early and any(self.leaves(d, axis) for axis in dim.split)):
                yield from self.enter("slice", d, fresh)

    def scatters(self) -> Iterator[Step]:
        for d in range(len(self.now)):
            if fresh := self.arriving(d, [axis for axis in self.opened if axis in self.goal]):
                yield from self.enter("reduce_scatter", d, fresh, how=self.how)

    def exchanges(self) -> Iterator[Step]:
        """Axes that go from dim to dim: together, as far as no dim both loses and gains some."""
        while leaving := {a: d for d, dim in enumerate(self.now) for a in dim.split if self.goal.get(a, d) != d}:
            free = [axis for axis in leaving if self.goal[axis] not in leaving.values()]
            first = next(iter(leaving))
            alike = [a for a in leaving if (leaving[a], self.goal[a]) == (leaving[first], self.goal[first])]
            yield from self.exchange({axis: leaving[axis] for axis in free or alike})

    def exchange(self, leaving: Mapping[str, int]) -> Iterator[Step]:
        for d in sorted(set(leaving.values())):
            if not self.may_leave_gaps(d, leaving):
                yield from self.to_the_end(d, tuple(axis for axis in self.now[d].split if axis in leaving))
        axes = tuple(axis for d in range(len(self.now)) for axis in self.arriving(d, list(leaving)))
        source, goal = tuple(leaving[axis] for axis in axes), tuple(self.goal[axis] for axis in axes)
        order = tuple(axis for dim in self.now for axis in dim.split if axis in leaving)
        yield Step("all_to_all", axes, order=order, source=source, goal=goal)
        for axis in order:
            self.now[leaving[axis]].whole.add(axis)
        for d in set(leaving.values()):
            self.settle(d)
        for axis, d in zip(axes, goal):
            dim = self.now[d]
            dim.digits.extend([axis] if axis not in dim.digits else [])
            dim.whole.discard(axis)

    def may_leave_gaps(self, d: int, leaving: Mapping[str, int]) -> bool:
        """Whether no axis stays in a dim, or comes there, that would stand behind a digit that is whole."""
        dim, wanted = self.now[d], self.want.dims[d]
        return not (dim.whole or wanted) and all(axis in leaving or axis not in self.goal for axis in dim.split)

    def gathers(self) -> Iterator[Step]:
        for d, dim in enumerate(self.now):
            leaving = tuple(axis for axis in dim.split if axis not in self.goal)
            if leaving and set(leaving) != set(dim.split):
                yield from self.to_the_end(d, leaving)
            for run in reversed(self.now[d].runs(leaving)):
                behind = self.now[d].before(run[0])
                for part in reversed(parts_of("all_gather", run, self.torus)):
                    yield Step("all_gather", part, d, behind=behind)
            self.now[d].whole.update(leaving)
            self.settle(d)

    def settle(self, d: int) -> None:
        """Forgets digits that are whole and minor-most: they are part of the rest."""
        dim = self.now[d]
        while dim.digits and dim.digits[-1] in dim.whole:
            dim.whole.discard(dim.digits.pop())

    def to_the_end(self, d: int, axes: Axes) -> Iterator[Step]:
        yield from self.reorder(d, (*(axis for axis in self.now[d].split if axis not in axes), *axes))

    def reorder(self, d: int, order: Axes) -> Iterator[Step]:
        if self.now[d].split != order:
            yield Step("permute", self.now[d].split, d, order=order)
            self.now[d] = _Dim(list(order))
