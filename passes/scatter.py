"""A sum scattered over devices, written so that TPU compilers keep it a reduce_scatter (libtpu 0.0.42).

They make it an all_reduce and a slice, of twice the bytes and more, where shards do not fill whole tiles, and an even
number of them; so short leading dims borrow rows from the others, and small shards are filled up. And where the
scattered dim happens to lie minor-most in memory; so it is laid out major-most. Shards that are narrow along the last
of three dims and more would fill few of their tiles: there the others lie behind it so that they fill them.

A leading dim in front of whole tiles is so already and goes as it lies, and so do rows in whole tiles behind other
dims. Rows with short dims behind them, such as the heads of a token, are not merged with these: what merges them climbs
to the matmul that made them, which copies its weight first.
"""

from collections.abc import Sequence
from itertools import permutations
from math import ceil, prod

import jax
import jax.numpy as jnp
from jax import lax

from passes.layout import laid_out
from passes.way import Axes

TILE, WORD = (8, 128), 4
SMALL = 1 << 21
"""Bytes of a sum that are laid out anew sooner than a weight. Reshapes before a scatter would climb to the matmul that
made it, which then cannot read its weight from the stack of a scan: it is copied first. They do not pass a barrier."""
LARGE = 1 << 25
"""Bytes from which on a matrix goes as it lies: told where to lie it is copied once more than libtpu would by itself.

So on v4 and v5p; on v5e nothing changes."""


def reduce_scatter(x: jax.Array, axes: Axes, dim: int, ways: int) -> jax.Array:
    """Each device's part of the sum, inside of a `shard_map`.

    Args:
        x: A device's summand.
        axes: Mesh axes to sum over, of `ways` devices together.
        dim: The dim that is cut: to a size of `x.shape[dim] // ways`.
        ways: Number of shards.
    """
    if x.size < filled(x.size, ways, x.dtype.itemsize) or _thin(x, dim, ways):
        return _evened(x, dim, axes, ways)
    if _whole_rows(x, dim, ways):
        return lax.psum_scatter(laid_out(x, range(x.ndim)), axes, scatter_dimension=dim, tiled=True)
    if dim and _short([n for d, n in enumerate(x.shape) if d != dim]):
        return jnp.moveaxis(reduce_scatter(jnp.moveaxis(x, dim, 0), axes, 0, ways), 0, dim)
    if not dim and _short(x.shape[1:]) and not x.shape[0] // ways % TILE[0]:
        return _planes(x, axes, ways)
    shape = (*x.shape[:dim], x.shape[dim] // ways, *x.shape[dim + 1 :])
    flat, at = _flat(x, dim, ways)
    return _scattered(flat, axes, at, ways).reshape(shape)


def filled(elements: float, ways: int, itemsize: int) -> float:
    """Elements that a small scatter sends: its shards are filled up to an even number of whole tiles.

    Each way round a ring takes half of them. What fills less than a row of a tile, or is no small sum, goes as it is.
    """
    pair = 2 * prod(TILE)
    return ways * pair * ceil(elements / ways / pair) if _fills(elements, ways, itemsize) else elements


def _fills(elements: float, ways: int, itemsize: int) -> bool:
    """Whether a sum is small, and its shards a row of a tile and more."""
    return elements >= ways * TILE[1] and elements * itemsize < SMALL


def _thin(x: jax.Array, dim: int, ways: int) -> bool:
    """Whether small shards lie in fewer rows than a tile has."""
    return _fills(x.size, ways, x.dtype.itemsize) and dim == x.ndim - 1 and prod(x.shape[:-1]) < TILE[0]


def _evened(x: jax.Array, dim: int, axes: Axes, ways: int) -> jax.Array:
    """A reduce_scatter of shards that are filled up, each in rows of its own.

    Narrow columns of a matrix become rows: a compiler has the matmul before write them so.
    """
    if x.ndim == 2 and dim and _padding([x.shape[1] // ways, x.shape[0]]) <= _padding([x.shape[0], x.shape[1] // ways]):
        return _evened(x.T, 0, axes, ways).T
    shard = (*x.shape[:dim], x.shape[dim] // ways, *x.shape[dim + 1 :])
    parts = jnp.moveaxis(x.reshape(*x.shape[:dim], ways, *shard[dim:]), dim, 0).reshape(ways, prod(shard))
    more = int(filled(x.size, ways, x.dtype.itemsize)) // ways - prod(shard)
    rows = held(jnp.pad(parts, ((0, 0), (0, more)))).reshape(ways * TILE[0], (prod(shard) + more) // TILE[0])
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
    if x.ndim == 2 and dim and x.size * x.dtype.itemsize >= LARGE:
        return lax.psum_scatter(x, axes, scatter_dimension=dim, tiled=True)
    if dim == x.ndim - 1 and _wide_behind(x.shape, ways):
        lies = min(permutations(range(dim)), key=lambda order: _padding([x.shape[d] for d in order]))
        return lax.psum_scatter(laid_out(x, (dim, *lies)), axes, scatter_dimension=dim, tiled=True)
    if dim == x.ndim - 1 and dim and not _by_columns(x.shape, ways):
        parts = held(x).reshape(*x.shape[:dim], ways, x.shape[dim] // ways)
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
    """Whether the other dims, two and more, fill whole tiles, as the last dim's narrow shards do not."""
    best = min(map(_padding, permutations(shape[:-1])))
    return len(shape) > 2 and best == 1 < _padding([shape[-2], shape[-1] // ways])


def _major(x: jax.Array, dim: int) -> jax.Array:
    """Laid out in memory with a dim as the major-most."""
    return laid_out(x, (dim, *(d for d in range(x.ndim) if d != dim)))


def _padding(shape: Sequence[int]) -> float:
    """What an array takes in tiles over what it holds."""
    return prod(ceil(n / tile) * tile / n for n, tile in zip(shape[-2:], TILE))


def _flat(x: jax.Array, dim: int, ways: int) -> tuple[jax.Array, int]:
    """The array with its leading dim scattered in two dims, in as many rows as whole tiles of each shard take."""
    minor = prod(x.shape[dim + 1 :])
    if prod(x.shape[:dim]) > 1 or _tiled(x.shape[dim + 1 :]):
        return x, dim
    whole = (rows for rows in (1, 2, 4, 8) if not x.shape[dim] // ways * rows % TILE[0])
    rows = next((rows for rows in whole if not minor % (rows * TILE[1])), None)
    return (x, dim) if rows is None else (held(x).reshape(x.shape[dim] * rows, minor // rows), 0)


def held(x: jax.Array) -> jax.Array:
    """What is small, behind a barrier that reshapes do not climb."""
    return lax.optimization_barrier(x) if x.size * x.dtype.itemsize < SMALL else x
