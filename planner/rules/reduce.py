"""Reductions, scans along a dim, and sorting.

A sum, maximum, product … of parts combines to that of the whole, so its dims may be split. A dim that is scanned,
sorted or searched for an index is `Whole`. For scans that is more than a matter of cost: where XLA splits the scanned
dim by itself (jaxlib 0.10.2, CPU), a cumsum and a cumprod of one array come out wrong: the products are 0.
"""

from collections.abc import Sequence
from math import log2, prod
from typing import Any

from planner.rules.labels import Labels, Shapes, Whole, labelled
from planner.rules.registry import register
from planner.rules.rule import Rule

_COMBINE = {"sum": "sum", "max": "max", "min": "min", "prod": "mul", "or": "or", "and": "and"}


def _register(name: str, how: str) -> None:
    @register(f"reduce_{name}")
    def reduce(in_shapes: Shapes, out_shapes: Shapes, axes: Sequence[int], **_: Any) -> Rule:
        dims = range(len(in_shapes[0]))
        results = [[d for d in dims if d not in axes]]
        linear = ((0,),) if how == "sum" else ()
        reduced = dict.fromkeys(axes, how)
        return labelled([dims], results, in_shapes, out_shapes, reduced=reduced, work=1.0, linear=linear, fusible=True)


for _name, _how in _COMBINE.items():
    _register(_name, _how)


def _along(rank: int, axes: Sequence[int], of: str = "in") -> Labels:
    return [Whole(of, d) if d in axes else d for d in range(rank)]


@register("argmax", "argmin", "reduce_xor")
def search(in_shapes: Shapes, out_shapes: Shapes, axes: Sequence[int], **_: Any) -> Rule:
    """The index of an extreme, or a parity: partial results do not combine by one collective."""
    operand = _along(len(in_shapes[0]), axes)
    results = [[la for la in operand if not isinstance(la, Whole)]]
    work = float(prod(in_shapes[0][d] for d in axes))
    return labelled([operand], results, in_shapes, out_shapes, work=work, fusible=True)


@register("reduce")
def general_reduce(in_shapes: Shapes, out_shapes: Shapes, dimensions: Sequence[int], **_: Any) -> Rule:
    """A reduction by any computation: operands, then as many scalar initial values."""
    operand = _along(len(in_shapes[0]), dimensions)
    result = [la for la in operand if not isinstance(la, Whole)]
    operands = [operand if shape else [] for shape in in_shapes]
    work = float(prod(in_shapes[0][d] for d in dimensions))
    return labelled(operands, [result] * len(out_shapes), in_shapes, out_shapes, work=work, fusible=True)


def _register_scan(name: str, linear: tuple[tuple[int, ...], ...] = ()) -> None:
    @register(name)
    def scan(in_shapes: Shapes, out_shapes: Shapes, axis: int, **_: Any) -> Rule:
        row = _along(len(in_shapes[0]), (axis,))
        return labelled([row], [row], in_shapes, out_shapes, work=float(in_shapes[0][axis]), linear=linear)


_register_scan("cumsum", ((0,),))
for _name in "cumprod", "cummax", "cummin", "cumlogsumexp":
    _register_scan(_name)


@register("sort")
def sort(in_shapes: Shapes, out_shapes: Shapes, dimension: int, **_: Any) -> Rule:
    """Arrays sorted together along one dim, n·log₂n comparisons."""
    rows = [_along(len(in_shapes[0]), (dimension,))] * len(in_shapes)
    size = in_shapes[0][dimension]
    return labelled(rows, rows, in_shapes, out_shapes, work=size * log2(max(2, size)))


def _top(in_shapes: Shapes, out_shapes: Shapes, axis: int) -> Rule:
    rank = len(in_shapes[0])
    results = [_along(rank, (axis % rank,), "top")] * 2
    size, k = in_shapes[0][axis], out_shapes[0][axis]
    work = size * log2(max(2, k))
    return labelled([_along(rank, (axis % rank,))], results, in_shapes, out_shapes, work=work)


@register("top_k")
def top_k(in_shapes: Shapes, out_shapes: Shapes, axis: int = -1, **_: Any) -> Rule:
    """The k largest along a dim and their indices."""
    return _top(in_shapes, out_shapes, axis)


@register("approx_top_k")
def approx_top_k(in_shapes: Shapes, out_shapes: Shapes, reduction_dimension: int, **_: Any) -> Rule:
    """Like `top_k`, on the TPU's own algorithm."""
    return _top(in_shapes, out_shapes, reduction_dimension)
