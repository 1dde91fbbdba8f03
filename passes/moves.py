"""From one layout of a value to another, as collectives that a device runs on its shard inside of a `shard_map`.

From `P("x", None)` to `P(None, "y")`: slice along y, then all_gather over x. Free slices come first, they shrink what
follows; then reduce_scatter, all_to_all, all_reduce; all_gather comes last. An axis leaves a dim from its minor end and
enters at its minor end, so where axes of one dim stand in another order, shards are permuted first, or at last.

Two things are written as TPU compilers keep them (libtpu 0.0.42): a gather or a scatter over three torus axes becomes
an all_reduce of twice the bytes, so it goes over two and then over one; a scatter whose shards do not fill whole tiles
becomes an all_reduce and a slice, so short leading dims borrow rows from the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import lax
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
    """One move: `slice`, `reduce_scatter`, `all_to_all` (from dim `source` to `dim`), `all_reduce`, `all_gather`.

    A `permute` brings the axes of a dim from the order `axes` into the order `order`.
    """

    kind: str
    axes: Axes
    dim: int = -1
    source: int = -1
    how: str = "sum"
    order: Axes = ()


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
        for source in range(len(self.now)):
            for d in range(len(self.now)):
                moving = self.arriving(d, self.now[source]) if d != source else ()
                if moving:
                    yield from self.to_the_end(source, moving)
                    self.now[source] = self.now[source][: -len(moving)]
                    self.now[d].extend(moving)
                    yield Step("all_to_all", moving, d, source)

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
    """The shard in its new layout, inside of a `shard_map` over mesh axes of these sizes."""
    for step in steps(have, want, torus):
        x = _MOVES[step.kind](x, step, sizes)
    return x


def _slice(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    size = x.shape[step.dim] // int(np.prod([sizes[axis] for axis in step.axes]))
    return lax.dynamic_slice_in_dim(x, lax.axis_index(step.axes) * size, size, step.dim)


def _reduce_scatter(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    if step.how == "sum":
        rows = _rows(x.shape, int(np.prod([sizes[axis] for axis in step.axes]))) if step.dim == 0 else 1
        wide = x.reshape(x.shape[0] * rows, -1) if rows > 1 else x
        part = lax.psum_scatter(wide, step.axes, scatter_dimension=step.dim, tiled=True)
        return part.reshape(-1, *x.shape[1:]) if rows > 1 else part
    return _slice(_all_reduce(x, step, sizes), step, sizes)


def _rows(shape: Sequence[int], ways: int) -> int:
    """Into how many rows each row is cut, so that every shard has whole tiles of rows; 1 where that cannot be."""
    minor = int(np.prod(shape[1:]))
    wanted = (rows for rows in (1, 2, 4, 8) if not shape[0] // ways * rows % TILE[0])
    return next((rows for rows in wanted if not minor % (rows * TILE[1])), 1)


def _all_to_all(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    return lax.all_to_all(x, step.axes, split_axis=step.dim, concat_axis=step.source, tiled=True)


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
