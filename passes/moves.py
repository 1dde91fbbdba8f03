"""Steps from one layout of a value to another (`passes.way`), run by a device on its shard inside of a `shard_map`.

Three things are written as TPU compilers keep them (libtpu 0.0.42): a gather over three torus axes, or a scatter over
all of a square or a cube, becomes an all_reduce of twice the bytes, so it goes over some, then over the others; a
scatter whose shards do not fill whole tiles, and an even number of them, becomes an all_reduce and a slice, so short
leading dims borrow rows from the others, and small shards are filled up; and so does one along a dim that happens to
lie minor-most in memory, so the scattered dim is laid out major-most. A leading dim in front of whole tiles is so
already and goes as it lies, and so do rows in whole tiles behind other dims. Rows with short dims behind them, such as
the heads of a token, are not merged with these: what merges them climbs to the matmul that made them, which copies its
weight first.

An exchange is of parts that lie one behind the other: along two dims that stay where they are, libtpu lays all out anew
several times (`bf16[1, 32, 18432]` between 4 chips of v4: 239 µs instead of 6).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from math import ceil, prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from passes.layout import laid_out
from passes.way import Axes, Shard, Sizes, Step, Torus, steps

TILE, WORD = (8, 128), 4
SMALL = 1 << 21
"""Bytes of a sum that are laid out anew sooner than a weight. Reshapes before a scatter would climb to the matmul that
made it, which then cannot read its weight from the stack of a scan: it is copied first. They do not pass a barrier."""


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
        ways = devices(step.axes, sizes)
        if x.size < filled(x.size, ways, x.dtype.itemsize) or _thin(x, step.dim, ways):
            return _evened(x, step.dim, step.axes, ways)
        if _whole_rows(x, step.dim, ways):
            return lax.psum_scatter(_major(x, 0), step.axes, scatter_dimension=step.dim, tiled=True)
        if step.dim and _short([n for d, n in enumerate(x.shape) if d != step.dim]):
            front = _reduce_scatter(jnp.moveaxis(x, step.dim, 0), replace(step, dim=0), sizes)
            return jnp.moveaxis(front, 0, step.dim)
        if not step.dim and _short(x.shape[1:]) and not x.shape[0] // ways % TILE[0]:
            return _planes(x, step.axes, ways)
        shape = (*x.shape[: step.dim], x.shape[step.dim] // ways, *x.shape[step.dim + 1 :])
        flat, dim = _flat(x, step.dim, ways)
        return _scattered(flat, step.axes, dim, ways).reshape(shape)
    return _slice(_all_reduce(x, step, sizes), step, sizes)


def filled(elements: float, ways: int, itemsize: int) -> float:
    """Elements that a small scatter sends: its shards are filled up to an even number of whole tiles.

    Each way round a ring takes half of them. What fills less than a tile, or is no small sum, goes as it is.
    """
    part, pair = elements / ways, 2 * prod(TILE)
    small = 2 * part >= pair and elements * itemsize < SMALL
    return ways * pair * ceil(part / pair) if small else elements


def _thin(x: jax.Array, dim: int, ways: int) -> bool:
    """Whether small shards of a tile and more lie in fewer rows than a tile has."""
    small = x.size >= ways * prod(TILE) and x.size * x.dtype.itemsize < SMALL
    return small and dim == x.ndim - 1 and prod(x.shape[:-1]) < TILE[0]


def _evened(x: jax.Array, dim: int, axes: Axes, ways: int) -> jax.Array:
    """A reduce_scatter of shards that are filled up, each in rows of its own."""
    shard = (*x.shape[:dim], x.shape[dim] // ways, *x.shape[dim + 1 :])
    parts = jnp.moveaxis(x.reshape(*x.shape[:dim], ways, *shard[dim:]), dim, 0).reshape(ways, prod(shard))
    more = int(filled(x.size, ways, x.dtype.itemsize)) // ways - prod(shard)
    rows = _held(jnp.pad(parts, ((0, 0), (0, more)))).reshape(ways * TILE[0], (prod(shard) + more) // TILE[0])
    return lax.psum_scatter(rows, axes, scatter_dimension=0, tiled=True).reshape(-1)[: prod(shard)].reshape(shard)


def _whole_rows(x: jax.Array, dim: int, ways: int) -> bool:
    """Whether what is scattered are rows behind other dims, of which each shard has whole tiles: it goes as it lies.

    Of narrow numbers as many rows more as share a word.
    """
    rows = TILE[0] * max(1, WORD // x.dtype.itemsize)
    return dim == x.ndim - 2 and prod(x.shape[:dim]) > 1 and not x.shape[dim] // ways % rows


def _short(rest: Sequence[int]) -> bool:
    """Whether what is left beside the scattered dim fills no whole tiles, though it has the dims for it."""
    return len(rest) > 1 and not _tiled(rest)


def _tiled(rest: Sequence[int]) -> bool:
    """Whether other dims fill whole tiles by themselves, so that the scattered one is in none."""
    return len(rest) > 1 and rest[-2] % TILE[0] == 0


def _planes(x: jax.Array, axes: Axes, ways: int) -> jax.Array:
    """A reduce_scatter of leading rows, in whole tiles behind the short dims: a matmul may write its result so."""
    parts = x.reshape(ways, x.shape[0] // ways, *x.shape[1:])
    order = (0, *range(2, parts.ndim - 1), 1, parts.ndim - 1)
    return lax.psum_scatter(laid_out(parts, order), axes, tiled=False)


def _scattered(x: jax.Array, axes: Axes, dim: int, ways: int) -> jax.Array:
    """A reduce_scatter of what lies in memory with the scattered dim, or the number of the shard, major-most."""
    if dim == x.ndim - 1 and dim and not (_by_columns(x.shape, ways) or _wide_behind(x.shape, ways)):
        parts = _held(x).reshape(*x.shape[:dim], ways, x.shape[dim] // ways)
        return lax.psum_scatter(_major(parts, dim), axes, scatter_dimension=dim, tiled=False)
    few = x.ndim == 1 or (dim == x.ndim - 1 and x.shape[0] < TILE[0])
    wide = x if few else _major(x, dim)
    return lax.psum_scatter(wide, axes, scatter_dimension=dim, tiled=True)


def _by_columns(shape: Sequence[int], ways: int) -> bool:
    """Whether a compiler has a matrix lie column by column, as that pads its narrow shards less.

    A few rows, which fill no tile either way, are left as they are.
    """
    part = shape[-1] // ways
    whole = shape[0] % TILE[1] == 0 or (part < shape[0] and part % (2 * TILE[0]) == 0)
    return len(shape) == 2 and part % TILE[1] > 0 and (whole or shape[0] < TILE[0])


def _wide_behind(shape: Sequence[int], ways: int) -> bool:
    """Whether the other dims, two and more, fill tiles better than the last dim's narrow shards do."""
    return len(shape) > 2 and _padding(_behind_it(shape, len(shape) - 1)) < _padding([shape[-2], shape[-1] // ways])


def _major(x: jax.Array, dim: int) -> jax.Array:
    """Laid out in memory with a dim as the major-most, the others so that they fill tiles best."""
    order = min(permutations(d for d in range(x.ndim) if d != dim), key=lambda o: _padding([x.shape[d] for d in o]))
    return laid_out(x, (dim, *order))


def _behind_it(shape: Sequence[int], dim: int) -> Sequence[int]:
    others = [n for d, n in enumerate(shape) if d != dim]
    return min(permutations(others), key=_padding)


def _padding(shape: Sequence[int]) -> float:
    """What an array takes in tiles over what it holds."""
    return prod(ceil(n / tile) * tile / n for n, tile in zip(shape[-2:], TILE))


def _flat(x: jax.Array, dim: int, ways: int) -> tuple[jax.Array, int]:
    """The array with its leading dim scattered in two dims, in as many rows as whole tiles of each shard take."""
    minor = int(np.prod(x.shape[dim + 1 :]))
    if np.prod(x.shape[:dim]) > 1 or _tiled(x.shape[dim + 1 :]):
        return x, dim
    whole = (rows for rows in (1, 2, 4, 8) if not x.shape[dim] // ways * rows % TILE[0])
    rows = next((rows for rows in whole if not minor % (rows * TILE[1])), None)
    return (x, dim) if rows is None else (_held(x).reshape(x.shape[dim] * rows, minor // rows), 0)


def _held(x: jax.Array) -> jax.Array:
    """What is small, behind a barrier that reshapes do not climb."""
    return lax.optimization_barrier(x) if x.size * x.dtype.itemsize < SMALL else x


def _all_to_all(x: jax.Array, step: Step, sizes: Sizes) -> jax.Array:
    """One exchange for all axes, of parts that lie one behind the other."""
    ways = [sizes[axis] for axis in step.axes]
    parts = _to_the_front(_held(x) if x.ndim - 1 in step.goal else x, step.goal, ways)
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
