"""Steps from one layout of a value to another (`passes.way`), run by a device on its shard inside of a `shard_map`.

Some are written as TPU compilers keep them (libtpu 0.0.42). A gather over three torus axes, or a scatter over all of a
square or a cube, becomes an all_reduce of twice the bytes, so it goes over some, then over the others. How a sum is
scattered says `passes.scatter`.

An exchange is of parts that lie one behind the other: along two dims that stay where they are, libtpu lays all out anew
several times (`bf16[1, 32, 18432]` between 4 chips of v4: 239 µs instead of 6).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import jax
import numpy as np
from jax import lax

from passes.scatter import held, reduce_scatter
from passes.way import Axes, Shard, Sizes, Step, Torus, steps


def move(x: jax.Array, have: Shard, want: Shard, sizes: Sizes, torus: Torus | None = None) -> jax.Array:
    """The shard in its new layout, inside of a `shard_map` over mesh axes of these sizes.

    Where a dim is too small to be split by all axes that pass through it, the value is gathered whole on the way.
    """
    way = steps(have, want, torus)
    if not _divides(x.shape, way, sizes):
        whole = replace(have, dims=((),) * len(have.dims), open=want.open)
        way = [*steps(have, whole, torus), *steps(whole, want, torus)]
    for step in way:
        x = _behind(x, step, sizes) if step.behind else _MOVES[step.kind](x, step, sizes)
    return x


def _behind(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    """A step within a dim, behind its first digits."""
    front, d = devices(step.behind, sizes), step.dim
    apart = x.reshape(*x.shape[:d], front, x.shape[d] // front, *x.shape[d + 1 :])
    done = _MOVES[step.kind](apart, replace(step, dim=d + 1, behind=()), sizes)
    return done.reshape(*x.shape[:d], front * done.shape[d + 1], *x.shape[d + 1 :])


def devices(axes: Axes, sizes: Sizes) -> int:
    """Devices along some axes."""
    return prod(sizes[axis] for axis in axes)


def _divides(shape: Sequence[int], way: Sequence[Step], sizes: Sizes) -> bool:
    """Whether every step splits only what its axes divide."""
    local = list(shape)
    for step in way:
        parts = 1 if step.kind == "all_gather" else devices(step.axes, sizes)
        if step.behind and local[step.dim] % (devices(step.behind, sizes) * parts):
            return False
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
    size = x.shape[step.dim] // devices(step.axes, sizes)
    return lax.dynamic_slice_in_dim(x, lax.axis_index(step.axes) * size, size, step.dim)


def _reduce_scatter(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    if step.how == "sum":
        return reduce_scatter(x, step.axes, step.dim, devices(step.axes, sizes))
    return _slice(_all_reduce(x, step, sizes), step, sizes)


def _all_to_all(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    """One exchange for all axes, of parts that lie one behind the other."""
    ways = [sizes[axis] for axis in step.axes]
    parts = _to_the_front(held(x) if x.ndim - 1 in step.goal else x, step.goal, ways)
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
    ids = np.arange(devices(axes, sizes)).reshape([sizes[axis] for axis in axes])
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
