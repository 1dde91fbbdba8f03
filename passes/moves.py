"""From one layout of a value to another, as collectives that a device runs on its shard inside of a `shard_map`.

From `P("x", None)` to `P(None, "y")`: slice along y, then all_gather over x. Free slices come first, they shrink what
follows; then reduce_scatter, all_to_all, all_reduce; all_gather comes last. An axis leaves a dim from its minor end and
enters at its minor end, so where axes of one dim stand in another order, shards are permuted first, or at last.

Three things are written as TPU compilers keep them (libtpu 0.0.42): a gather or a scatter over three torus axes becomes
an all_reduce of twice the bytes, so it goes over two and then over one; a scatter whose shards do not fill whole tiles
becomes an all_reduce and a slice, so short leading dims borrow rows from the others; and so does one along the dim that
lies minor-most in memory, so what is scattered lies row-major.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

TILE = (8, 128)
PLANE = 2

Axes = tuple[str, ...]
Sizes = Mapping[str, int]


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
    """

    kind: str
    axes: Axes
    dim: int = -1
    how: str = "sum"
    order: Axes = ()
    source: tuple[int, ...] = ()
    goal: tuple[int, ...] = ()


def steps(have: Shard, want: Shard, torus: Sizes | None = None) -> list[Step]:
    """The moves between two layouts.

    Args:
        have: The layout that is.
        want: The one that is wanted.
        torus: The number of torus axes that each mesh axis walks; empty where there is no torus.

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


def in_planes(axes: Axes, torus: Sizes) -> list[Axes]:
    """Mesh axes in groups, none of which walks more than two torus axes unless one alone does."""
    found: list[Axes] = [()]
    for axis in axes:
        walked = sum(torus.get(a, 0) for a in (*found[-1], axis))
        found[-1:] = [found[-1], (axis,)] if found[-1] and walked > PLANE else [(*found[-1], axis)]
    return found


class _Way:
    def __init__(self, have: Shard, want: Shard, torus: Sizes):
        self.torus = torus
        self.now = [list(axes) for axes in have.dims]
        self.want = want
        self.goal = {axis: d for d, axes in enumerate(want.dims) for axis in axes}
        self.opened = have.open - want.open
        self.how = have.how

    def steps(self) -> Iterator[Step]:
        yield from self.slices(early=True)
        yield from self.scatters()
        yield from self.exchanges()
        if reduced := tuple(sorted(self.opened - self.goal.keys())):
            yield Step("all_reduce", reduced, how=self.how)
        yield from self.gathers()
        yield from self.slices(early=False)
        for d, axes in enumerate(self.want.dims):
            yield from self.reorder(d, axes)

    def arriving(self, d: int, among: Sequence[str]) -> Axes:
        """The axes that are to come to a dim, in the order in which it wants them."""
        return tuple(axis for axis in self.want.dims[d] if axis in among)

    def slices(self, early: bool) -> Iterator[Step]:
        used = {axis for axes in self.now for axis in axes} | self.opened
        for d, axes in enumerate(self.now):
            leaves = any(self.goal.get(axis) != d for axis in axes)
            fresh = self.arriving(d, [axis for axis in self.goal if axis not in used])
            if fresh and not (early and leaves):
                axes.extend(fresh)
                yield Step("slice", fresh, d)

    def scatters(self) -> Iterator[Step]:
        for d, axes in enumerate(self.now):
            if fresh := self.arriving(d, [axis for axis in self.opened if axis in self.goal]):
                axes.extend(fresh)
                yield from (Step("reduce_scatter", part, d, how=self.how) for part in in_planes(fresh, self.torus))

    def exchanges(self) -> Iterator[Step]:
        """Axes that go from dim to dim: together, as far as no dim both loses and gains some."""
        while leaving := {a: d for d, axes in enumerate(self.now) for a in axes if self.goal.get(a, d) != d}:
            free = [axis for axis in leaving if self.goal[axis] not in leaving.values()]
            first = next(iter(leaving))
            alike = [a for a in leaving if (leaving[a], self.goal[a]) == (leaving[first], self.goal[first])]
            yield from self.exchange({axis: leaving[axis] for axis in free or alike})

    def exchange(self, leaving: Mapping[str, int]) -> Iterator[Step]:
        for d in sorted(set(leaving.values())):
            yield from self.to_the_end(d, tuple(axis for axis in self.now[d] if axis in leaving))
        axes = tuple(axis for d in range(len(self.now)) for axis in self.arriving(d, list(leaving)))
        source, goal = tuple(leaving[axis] for axis in axes), tuple(self.goal[axis] for axis in axes)
        order = tuple(axis for dim in self.now for axis in dim if axis in leaving)
        yield Step("all_to_all", axes, order=order, source=source, goal=goal)
        self.now = [[axis for axis in dim if axis not in leaving] for dim in self.now]
        for axis, d in zip(axes, goal):
            self.now[d].append(axis)

    def gathers(self) -> Iterator[Step]:
        for d, axes in enumerate(self.now):
            if leaving := tuple(axis for axis in axes if axis not in self.goal):
                yield from self.to_the_end(d, leaving)
                self.now[d] = self.now[d][: -len(leaving)]
                yield from (Step("all_gather", part, d) for part in reversed(in_planes(leaving, self.torus)))

    def to_the_end(self, d: int, axes: Axes) -> Iterator[Step]:
        yield from self.reorder(d, (*(axis for axis in self.now[d] if axis not in axes), *axes))

    def reorder(self, d: int, order: Axes) -> Iterator[Step]:
        if tuple(self.now[d]) != order:
            yield Step("permute", tuple(self.now[d]), d, order=order)
            self.now[d] = list(order)


def move(x: jax.Array, have: Shard, want: Shard, sizes: Sizes, torus: Sizes | None = None) -> jax.Array:
    """The shard in its new layout, inside of a `shard_map` over mesh axes of these sizes.

    Where a dim is too small to be split by all axes that pass through it, the value is gathered whole on the way.
    """
    way = steps(have, want, torus)
    if not _divides(x.shape, way, sizes):
        whole = replace(have, dims=((),) * len(have.dims), open=want.open)
        way = [*steps(have, whole, torus), *steps(whole, want, torus)]
    for step in way:
        x = _MOVES[step.kind](x, step, sizes)
    return x


def _divides(shape: Sequence[int], way: Sequence[Step], sizes: Sizes) -> bool:
    """Whether every step splits only what its axes divide."""
    local = list(shape)
    for step in way:
        split = [step.dim] * len(step.axes) if step.kind in ("slice", "reduce_scatter") else step.goal
        joined = [step.dim] * len(step.axes) if step.kind == "all_gather" else step.source
        for d, axis in zip(split, step.axes):
            if local[d] % sizes[axis]:
                return False
            local[d] //= sizes[axis]
        for d, axis in zip(joined, step.axes):
            local[d] *= sizes[axis]
    return True


def _slice(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    size = x.shape[step.dim] // int(np.prod([sizes[axis] for axis in step.axes]))
    return lax.dynamic_slice_in_dim(x, lax.axis_index(step.axes) * size, size, step.dim)


def _reduce_scatter(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    if step.how == "sum":
        ways = int(np.prod([sizes[axis] for axis in step.axes]))
        shape = (*x.shape[: step.dim], x.shape[step.dim] // ways, *x.shape[step.dim + 1 :])
        flat, dim = _flat(x, step.dim, ways)
        wide = with_layout_constraint(flat, Layout(tuple(range(flat.ndim))))
        return lax.psum_scatter(wide, step.axes, scatter_dimension=dim, tiled=True).reshape(shape)
    return _slice(_all_reduce(x, step, sizes), step, sizes)


def _flat(x: jax.Array, dim: int, ways: int) -> tuple[jax.Array, int]:
    """The array with its leading dim scattered in two dims, in as many rows as whole tiles of each shard take."""
    minor = int(np.prod(x.shape[dim + 1 :]))
    if np.prod(x.shape[:dim]) > 1:
        return x, dim
    whole = (rows for rows in (1, 2, 4, 8) if not x.shape[dim] // ways * rows % TILE[0])
    rows = next((rows for rows in whole if not minor % (rows * TILE[1])), None)
    return (x, dim) if rows is None else (x.reshape(x.shape[dim] * rows, minor // rows), 0)


def _all_to_all(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    """One exchange for all axes. Those between two dims only, in one order, are the primitive's own case."""
    if len(set(step.source)) == len(set(step.goal)) == 1 and step.axes == step.order:
        return lax.all_to_all(x, step.axes, split_axis=step.goal[0], concat_axis=step.source[0], tiled=True)
    ways = [sizes[axis] for axis in step.axes]
    parts = _to_the_front(x, step.goal, ways)
    parts = lax.all_to_all(parts.reshape(-1, *parts.shape[len(ways) :]), step.axes, 0, 0, tiled=True)
    parts = parts.reshape(*ways, *parts.shape[1:])
    return _from_the_front(parts, [(step.source[step.axes.index(axis)], step.axes.index(axis)) for axis in step.order])


def _to_the_front(x: jax.Array, dims: Sequence[int], ways: Sequence[int]) -> jax.Array:
    """Cuts each dim in its number of ways, major ways first, and brings the ways to the front in order."""
    cut = [[n for d, n in zip(dims, ways) if d == dim] for dim in range(x.ndim)]
    shape = [size for dim, ns in enumerate(cut) for size in (*ns, x.shape[dim] // int(np.prod(ns)))]
    starts = np.cumsum([0, *(len(ns) + 1 for ns in cut)])
    seen = [dims[:i].count(d) for i, d in enumerate(dims)]
    front = [int(starts[d]) + k for d, k in zip(dims, seen)]
    return x.reshape(shape).transpose(front + [i for i in range(len(shape)) if i not in front])


def _from_the_front(x: jax.Array, places: Sequence[tuple[int, int]]) -> jax.Array:
    """Joins leading dims to later ones, as their major part: pairs of the later dim and the leading one, in order."""
    lead = len(places)
    groups = [[i for d, i in places if d == dim] + [lead + dim] for dim in range(x.ndim - lead)]
    shape = [int(np.prod([x.shape[i] for i in group])) for group in groups]
    return x.transpose([i for group in groups for i in group]).reshape(shape)


def _all_reduce(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    return COMBINE[step.how](x, step.axes)


def _all_gather(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    return lax.all_gather(x, step.axes, axis=step.dim, tiled=True)


def _permute(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    axes = tuple(axis for axis in sizes if axis in step.axes)  # in the mesh's order, which is how devices are numbered
    return lax.ppermute(x, axes, exchange(axes, step.axes, step.order, sizes))


def exchange(axes: Axes, have: Axes, want: Axes, sizes: Sizes) -> list[tuple[int, int]]:
    """Senders and receivers, numbered along `axes`, that bring shards from one order of axes to another."""
    ids = np.arange(int(np.prod([sizes[axis] for axis in axes]))).reshape([sizes[axis] for axis in axes])
    senders, receivers = (ids.transpose([axes.index(axis) for axis in order]).ravel() for order in (have, want))
    return list(zip(senders.tolist(), receivers.tolist()))


def _gathered(reduce: Callable) -> Callable[[jax.Array, Axes], jax.Array]:
    """Where no collective combines: all parts are gathered."""
    return lambda x, axes: reduce(lax.all_gather(x, axes), (0,))


COMBINE: Mapping[str, Callable[[Any, Axes], Any]] = {
    "sum": lax.psum,
    "max": lax.pmax,
    "min": lax.pmin,
    "mul": _gathered(lax.reduce_prod),
    "or": _gathered(lax.reduce_or),
    "and": _gathered(lax.reduce_and),
}
_MOVES: Mapping[str, Callable[[jax.Array, Step, Sizes], jax.Array]] = {
    "slice": _slice,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "permute": _permute,
}
