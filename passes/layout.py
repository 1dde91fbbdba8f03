"""How a TPU compiler lets an array lie in memory where nobody says so: as an argument, as a result.

The last two dims of a layout are cut into tiles of up to 8 rows, a power of two, and 128 columns. The compiler (libtpu
0.0.42) takes as columns and rows those two dims whose tiles pad least; the others stay in order in front of them. So
`bf16[4608, 4, 256]` lies as it is, in tiles of 4 × 128; `bf16[18432, 4, 64]` lies as `[4, 64, 18432]`.
"""

from collections.abc import Sequence
from itertools import permutations

import jax
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

ROWS, COLUMNS = 8, 128
WORD = 4


def compact(shape: Sequence[int], itemsize: int = WORD) -> tuple[int, ...]:
    """The dims of such a layout, major to minor: row-major where nothing pads less.

    Args:
        shape: Of the array on one device.
        itemsize: Bytes of an element; of elements narrower than a word several rows share one.
    """
    if len(shape) < 2:
        return tuple(range(len(shape)))
    pairs = sorted(permutations(range(len(shape)), 2), key=lambda pair: pair[::-1], reverse=True)
    rows, columns = min(pairs, key=lambda pair: _waste(shape[pair[0]], shape[pair[1]], WORD // itemsize or 1))
    return (*(d for d in range(len(shape)) if d not in (rows, columns)), rows, columns)


def _waste(rows: int, columns: int, fewest: int) -> float:
    """How many times more than its elements a tiled plane takes."""
    tile = min(max(1 << (rows - 1).bit_length(), fewest), ROWS) if rows else 1
    return _up(rows, tile) * _up(columns, COLUMNS) / max(rows * columns, 1)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def laid_out(x: jax.Array, order: Sequence[int]) -> jax.Array:
    """The array, its dims from major to minor in memory as given: an order to a TPU compiler; others are told nothing.

    It is no part of what `jax.export` promises to keep: exports for TPUs need the check of `LayoutConstraint` disabled.
    """
    return lax.platform_dependent(x, tpu=lambda x: with_layout_constraint(x, Layout(tuple(order))), default=lambda x: x)
