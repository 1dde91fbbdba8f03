"""Reductions over sliding windows (pooling) and their transposes."""

from math import prod
from typing import Any

from planner.rules.conv import tiles
from planner.rules.labels import Shapes, Whole, labelled
from planner.rules.registry import register
from planner.rules.rule import Rule, Shape

Linear = tuple[tuple[int, ...], ...]


def _register(name: str, large: int, linear: Linear = ()) -> None:
    """Operand `large`, and all arrays of its shape, hold the windows; the other arrays hold one value for each."""

    @register(name)
    def windowed(in_shapes: Shapes, out_shapes: Shapes, window_dimensions: Shape, **params: Any) -> Rule:
        wide_shape, shapes = in_shapes[large], [*in_shapes, *out_shapes]
        narrow_shape = next((s for s in shapes if s and s != wide_shape), wide_shape)
        at = enumerate(zip(wide_shape, window_dimensions, narrow_shape, strict=True))
        free = [tiles(*sizes, d, params) for d, sizes in at]
        wide = [[("o", d), Whole("k", d)] if ok else Whole("wide", d) for d, ok in enumerate(free)]
        narrow = [("o", d) if ok else Whole("narrow", d) for d, ok in enumerate(free)]
        sizes: dict[Any, int] = {("o", d): narrow_shape[d] for d, ok in enumerate(free) if ok}
        sizes |= {Whole("k", d): window_dimensions[d] for d, ok in enumerate(free) if ok}
        rows = [(wide if s == wide_shape else narrow) if s else [] for s in shapes]
        work = prod(window_dimensions) * prod(n for n, ok in zip(narrow_shape, free) if not ok)
        operands, results = rows[: len(in_shapes)], rows[len(in_shapes) :]
        fields: dict[str, Any] = {"sizes": sizes, "work": float(work), "linear": linear}
        return labelled(operands, results, in_shapes, out_shapes, **fields)


for _name in "reduce_window", "reduce_window_max", "reduce_window_min", "select_and_gather_add":
    _register(_name, 0)
_register("reduce_window_sum", 0, ((0,),))
_register("select_and_scatter", 1)
_register("select_and_scatter_add", 1, ((0,),))
