"""A matmul whose result is scattered along its last dim at once, computed in parts that lie one behind the other.

Compilers for TPUs scatter along a dim that lies major-most in memory. Along the last one,

    {x w. a = dot_general x w; b = reduce_scatter[dim=1] a}

lays all of `a` out anew. With the dim cut before the product, which may write its result in any order of whole tiles,

    {x w. v = reshape[K, n, N/n] w; a = dot_general x v; p = transpose[n, M, N/n] a; b = reduce_scatter[dim=0] p}

nothing is (v5e 4×8, 32,768 × 8,192 values scattered over four devices: 4.6 ms of 19.7). What is small is laid out anew
on the chip, for nothing, while cut weights take longer to read; v4 and v5p do that for less. There a cut weight takes
longer only where it is copied: an argument of the program is read cut as it lies, the slice of a scan's stack is not.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import jax
from jax import lax

from passes import jaxpr
from passes.layout import laid_out
from passes.moves import devices
from passes.ring import DotDims
from passes.scatter import TILE
from passes.way import Axes, Shard, Sizes, Torus, steps

LARGE = 1 << 25
"""Bytes of a result that is not laid anew in the fast memory of a chip: a quarter of it, VMEM or CMEM of 128 MiB."""
SMALL, SMALLER = 1 << 19, ("TPU v4", "TPU v5")
"""The same for chips with slower copies, by their `device_kind` ("TPU v5" is a v5p)."""
COPIED = 2
"""Bytes of a result that are laid out anew while one of a weight is cut (as a v4 does it; a v5p cuts twice as fast)."""


def least(kind: str, copied: int) -> int:
    """Bytes of a result from which on it is computed in parts.

    Args:
        kind: `device_kind` of the devices.
        copied: Bytes of the operand that is cut, if it is copied for that.
    """
    return min(LARGE, max(SMALL, COPIED * copied)) if kind in SMALLER else LARGE


def leading_scatters(have: Shard, want: Shard, torus: Torus) -> list[Axes]:
    """The axes of the scatters along the last dim with which the way between two layouts begins."""
    found: list[Axes] = []
    for step in steps(have, want, torus):
        if (step.kind, step.dim, step.behind, step.how) != ("reduce_scatter", len(have.dims) - 1, (), "sum"):
            break
        found.append(step.axes)
    return found


def after(have: Shard, scatters: Sequence[Axes]) -> Shard:
    """The layout behind those scatters."""
    axes = tuple(axis for part in scatters for axis in part)
    return Shard((*have.dims[:-1], (*have.dims[-1], *axes)), have.open - set(axes))


def cut_operand(eqn: Any) -> int:
    """The operand of a `dot_general` whose dim is the last one of the result."""
    return _last(eqn.params["dimension_numbers"], [v.aval.ndim for v in eqn.invars], 0)[0]


def pays(shape: Sequence[int], itemsize: int, scatters: Sequence[Axes], sizes: Sizes, at_least: int = LARGE) -> bool:
    """Whether a device's result has that many bytes at least, and its parts fill whole tiles."""
    ways = prod(devices(axes, sizes) for axes in scatters)
    large = itemsize * prod(shape) >= at_least
    return large and len(shape) > 1 and shape[-1] % (ways * TILE[1]) == 0 and shape[-2] % TILE[0] == 0


def in_parts(
    eqn: Any, params: Mapping[str, Any], scatters: Sequence[Axes], sizes: Sizes, scope: str
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What one device does for a `dot_general` and the scatters behind it.

    Args:
        eqn: The matmul.
        params: Its params on a shard.
        scatters: The mesh axes of each scatter along the last dim of its result, one after the other.
        sizes: Devices along each mesh axis.
        scope: A name around the scatters.
    """
    ways = [devices(axes, sizes) for axes in scatters]
    operand, dim, numbers = _last(params["dimension_numbers"], [v.aval.ndim for v in eqn.invars], len(ways))

    def local(*operands: jax.Array) -> jax.Array:
        cut = list(operands)
        x = cut[operand]
        cut[operand] = x.reshape(*x.shape[:dim], *ways, x.shape[dim] // prod(ways), *x.shape[dim + 1 :])
        (out,) = jaxpr.bind(eqn, *cut, params={**params, "dimension_numbers": numbers})
        first = out.ndim - 1 - len(ways)
        out = lax.transpose(out, (*range(first, out.ndim - 1), *range(first), out.ndim - 1))
        out = laid_out(out, range(out.ndim))
        with jax.named_scope(scope):
            for axes in scatters:
                out = lax.psum_scatter(out, axes)
        return out

    return local


def _last(numbers: DotDims, ndims: Sequence[int], more: int) -> tuple[int, int, DotDims]:
    """Which dim of which operand is last in the result, and the numbers when `more` dims stand before it there."""
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = numbers
    kept = [(0, d) for d in range(ndims[0]) if d not in (*lhs_sum, *lhs_batch)]
    operand, dim = [*kept, *((1, d) for d in range(ndims[1]) if d not in (*rhs_sum, *rhs_batch))][-1]

    def moved(dims: Sequence[int], of: int) -> tuple[int, ...]:
        return tuple(d + more if of == operand and d > dim else d for d in dims)

    return operand, dim, ((moved(lhs_sum, 0), moved(rhs_sum, 1)), (moved(lhs_batch, 0), moved(rhs_batch, 1)))
