"""Slices: dims taken in full may be split, dims that are cut are whole.

A slice reads only what it returns, and an update in place writes only the update: `touched` says so.
"""

from collections.abc import Mapping
from typing import Any

from planner.rules.labels import Labels, Shapes, Whole, cut, labelled, share
from planner.rules.registry import register
from planner.rules.rule import Rule
from planner.rules.shape import moved, sized


def _kept(in_shapes: Shapes, out_shapes: Shapes) -> list[bool]:
    return [a == b for a, b in zip(in_shapes[0], out_shapes[0], strict=True)]


@register("slice")
def slice_(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """A static slice."""

    def localise(params: Mapping[str, Any], operands: Shapes, _: Shapes) -> Mapping[str, Any]:
        limits = (min(limit, size) for limit, size in zip(params["limit_indices"], operands[0]))
        return {**params, "limit_indices": tuple(limits)}

    operand, result = cut(_kept(in_shapes, out_shapes))
    touched = (share(out_shapes[0], in_shapes[0]), 1.0)
    return moved([operand], [result], in_shapes, out_shapes, touched=touched, localise=localise)


@register("dynamic_slice")
def dynamic_slice(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """A slice at indices known at run time; JAX clamps them, so a dim taken in full starts at 0."""
    operand, result = cut(_kept(in_shapes, out_shapes))
    starts: list[Labels] = [()] * (len(in_shapes) - 1)
    touched = (share(out_shapes[0], in_shapes[0]),) + (1.0,) * len(in_shapes)
    fields: dict[str, Any] = {"touched": touched, "linear": ((0,),), "localise": sized("slice_sizes")}
    return moved([operand, *starts], [result], in_shapes, out_shapes, **fields)


@register("dynamic_update_slice")
def dynamic_update_slice(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Writes the update in place. Where it is one element wide, as in a KV cache, the device that owns it writes."""
    pairs = list(zip(in_shapes[0], in_shapes[1], strict=True))
    single = [d for d, (size, new) in enumerate(pairs) if new == 1 < size]
    operand = [d if a == b or d in single else Whole("operand", d) for d, (a, b) in enumerate(pairs)]
    update = [d if a == b or d in single else Whole("update", d) for d, (a, b) in enumerate(pairs)]
    rows: list[Labels] = [operand, update, *[()] * (len(in_shapes) - 2)]
    part = share(in_shapes[1], in_shapes[0])
    touched = (part,) + (1.0,) * (len(in_shapes) - 1) + (part,)
    return labelled(rows, [operand], in_shapes, out_shapes, linear=((0, 1),), touched=touched, positional=single)
