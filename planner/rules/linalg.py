"""Linear algebra and Fourier transforms: batch dims are free, the dims of a matrix are whole."""

from collections.abc import Callable, Sequence
from math import log2, prod
from typing import Any

from planner.rules.labels import Labels, Shapes, Whole, labelled
from planner.rules.registry import register
from planner.rules.rule import Rule

Work = Callable[[int, int], float]

_MATRIX: dict[str, Work] = {
    "cholesky": lambda m, n: n**3 / 3,
    "cholesky_update": lambda m, n: 2.0 * n**2,
    "eig": lambda m, n: 25.0 * n**3,
    "eigh": lambda m, n: 9.0 * n**3,
    "geqp3": lambda m, n: 4.0 * max(m, n) * min(m, n) ** 2,
    "geqrf": lambda m, n: 2.0 * max(m, n) * min(m, n) ** 2,
    "hessenberg": lambda m, n: 10 * n**3 / 3,
    "householder_product": lambda m, n: 4.0 * m * n**2,
    "lu": lambda m, n: max(m, n) * min(m, n) ** 2 - min(m, n) ** 3 / 3,
    "qr": lambda m, n: 4.0 * max(m, n) * min(m, n) ** 2,
    "schur": lambda m, n: 25.0 * n**3,
    "svd": lambda m, n: 22.0 * max(m, n) * min(m, n) ** 2,
    "symmetric_product": lambda m, n: 2.0 * m**2 * n,
    "tridiagonal": lambda m, n: 4 * n**3 / 3,
}
"""FLOPs for one m × n matrix, with vectors: Golub and Van Loan, Matrix Computations, 4th edition."""


def batched(in_shapes: Shapes, out_shapes: Shapes, core: int, work: float, **fields: Any) -> Rule:
    """Leading dims, all but the last `core` of operand 0, are free and shared by all arrays; others are whole."""
    batch = len(in_shapes[0]) - core

    def row(of: Any, rank: int) -> Labels:
        return [d if d < batch else Whole(of, d) for d in range(rank)]

    operands = [row(("in", i), len(shape)) for i, shape in enumerate(in_shapes)]
    results = [row(("out", i), len(shape)) for i, shape in enumerate(out_shapes)]
    return labelled(operands, results, in_shapes, out_shapes, work=work, **fields)


def _register(name: str, work: Work) -> None:
    @register(name)
    def matrix(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
        return batched(in_shapes, out_shapes, 2, float(work(*in_shapes[0][-2:])))


for _name, _work in _MATRIX.items():
    _register(_name, _work)


@register("lu_pivots_to_permutation")
def lu_pivots_to_permutation(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Swaps to a permutation."""
    return batched(in_shapes, out_shapes, 1, float(in_shapes[0][-1]))


@register("tridiagonal_solve")
def tridiagonal_solve(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Three diagonals and right-hand sides, by Thomas' algorithm."""
    return batched(in_shapes, out_shapes, 1, 8.0 * prod(in_shapes[3][-2:]), linear=((3,),))


@register("ormqr")
def ormqr(in_shapes: Shapes, out_shapes: Shapes, left: bool, **_: Any) -> Rule:
    """Q times a matrix, from the reflectors of `geqrf`: the matrix's other dim is free."""
    rank = len(in_shapes[0])
    batch = list(range(rank - 2))
    reflectors, taus = [*batch, Whole("row"), Whole("column")], [*batch, Whole("tau")]
    moved = [*batch, *([Whole("row"), "side"] if left else ["side", Whole("row")])]
    work = 4.0 * in_shapes[0][-2] * in_shapes[1][-1]
    return labelled([reflectors, taus, moved], [moved], in_shapes, out_shapes, work=work, linear=((2,),))


@register("triangular_solve")
def triangular_solve(in_shapes: Shapes, out_shapes: Shapes, left_side: bool, **_: Any) -> Rule:
    """Right-hand sides are free: columns of b where a stands on the left, else its rows."""
    rank = len(in_shapes[0])
    batch, n = list(range(rank - 2)), in_shapes[0][-1]
    matrix = [*batch, Whole("row"), Whole("column")]
    core = [Whole("row"), "side"] if left_side else ["side", Whole("row")]
    sides = [*batch, *core]
    return labelled([matrix, sides], [sides], in_shapes, out_shapes, work=float(n**2), linear=((1,),))


@register("fft")
def fft(in_shapes: Shapes, out_shapes: Shapes, fft_lengths: Sequence[int], **_: Any) -> Rule:
    """5·n·log₂n FLOPs for n points."""
    n = prod(fft_lengths)
    return batched(in_shapes, out_shapes, len(fft_lengths), 5.0 * n * log2(max(2, n)), linear=((0,),))
