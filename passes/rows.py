"""A matmul with a single row gets a second one.

A TPU compiler (libtpu 0.0.42) takes a product with one row on a side for a multiply and a sum, and runs them on the
vector unit: a decode step's attention with one query for each head then takes four times as long as it takes to read
the cache, with a second row half of that. With `q` of shape [8, 64] and `k` of shape [8, 2048, 64]

    {q k. c = dot_general[batch 0, 0; contract 1, 2] q k}                      becomes
    {q k. p = pad[0, 1] q; d = dot_general[batch 0, 0; contract 1, 2] p k; c = d[:, 0]}

with `p` of shape [8, 64, 2] and `d` of shape [8, 2, 2048]. The second row is zeros.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import jax
from jax import lax

FEWEST = 32
"""Of other rows, and of summands, for which it pays."""
Shape = Sequence[int]


def single_row(shapes: tuple[Shape, Shape], dimension_numbers: Any) -> int | None:
    """Which operand has one row while the other has many; None if neither, or if little is summed.

    Args:
        shapes: Of both operands on one device.
        dimension_numbers: As `lax.dot_general` takes them.
    """
    contracted, batch = dimension_numbers
    rows = [_size(s, set(range(len(s))) - {*c, *b}) for s, c, b in zip(shapes, contracted, batch)]
    if min(rows) > 1 or max(rows) < FEWEST or _size(shapes[0], contracted[0]) < FEWEST:
        return None
    return rows.index(1)


def _size(shape: Shape, dims: Any) -> int:
    return prod(shape[d] for d in dims)


def two_rows(params: Mapping[str, Any], single: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The matmul of a `dot_general`'s params, with a second row of zeros in the operand that has a single one."""
    names = ("dimension_numbers", "precision", "preferred_element_type")
    dot: dict[str, Any] = {name: params[name] for name in names}

    def doubled(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        operands = [lhs, rhs]
        operands[single] = _padded(operands[single])
        result = lax.dot_general(operands[0], operands[1], **dot)
        free = lhs.ndim - len(params["dimension_numbers"][0][0])  # of the result: batch, left, then right
        return lax.index_in_dim(result, 0, free if single == 0 else result.ndim - 1, keepdims=False)

    return doubled


def _padded(x: jax.Array) -> jax.Array:
    wide = lax.expand_dims(x, (x.ndim,))
    return lax.pad(wide, wide.dtype.type(0), [(0, 0, 0)] * x.ndim + [(0, 1, 0)])
