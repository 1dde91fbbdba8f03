"""Convolutions and windows: batch and features are free, windowed dims are whole unless the windows tile the dim.

Where windows neither overlap nor leave gaps (patches of a vision transformer, pooling, 1×1 kernels), a spatial dim is
window × offset and splits like a reshape. Elsewhere a split would need halos, which no strategy plans.

Groups may be split, but not those of a pointwise convolution: where XLA splits their features by itself (jaxlib 0.10.2,
CPU), the results are wrong.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from planner.rules.labels import Labels, Shapes, Whole, labelled
from planner.rules.registry import register
from planner.rules.rule import Rule, precision_of


@register("conv_general_dilated")
def conv_general_dilated(
    in_shapes: Shapes,
    out_shapes: Shapes,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **params: Any,
) -> Rule:
    """A multiply and an add for each output, kernel position and input feature of its group."""
    n = dimension_numbers
    specs = (n.lhs_spec, n.rhs_spec, n.out_spec)
    at = [[shape[d] for d in spec] for shape, spec in zip([*in_shapes, *out_shapes], specs)]
    inner, kernel, outer, sizes, work = _spatial([row[2:] for row in at], params)
    pointwise = feature_group_count > 1 and all(size == 1 for size in at[1][2:])
    group: Any = Whole("group") if pointwise else "group"
    feature: Any = [group, "i"] if feature_group_count > 1 else "i"
    batch: Any = [group, "b"] if batch_group_count > 1 else "b"
    groups = feature_group_count * batch_group_count
    sizes |= {group: groups, "f": at[1][0] // groups, "i": at[1][1], "b": at[2][0]}
    rows = [[batch, feature, *inner], [[group, "f"], "i", *kernel], ["b", [group, "f"], *outer]]
    lhs, rhs, out = (_by_dim(spec, row) for spec, row in zip(specs, rows))
    return labelled(
        [lhs, rhs],
        [out],
        in_shapes,
        out_shapes,
        sizes=sizes,
        reduced={la: "sum" for la in ["i", *kernel] if not isinstance(la, Whole)},
        work=2.0 * work * (groups if pointwise else 1),
        linear=((0,), (1,)),
        precision=precision_of(params.get("precision")),
        localise=_groups,
    )


def _by_dim(spec: Sequence[int], row: Labels) -> list[Any]:
    """Labels by dim, from labels in the order of a spec: batch, feature, spatial dims."""
    return [row[list(spec).index(d)] for d in range(len(spec))]


def _groups(params: Mapping[str, Any], operands: Shapes, results: Shapes) -> Mapping[str, Any]:
    """A shard has its share of the groups: count them by its features and batch."""
    n, (lhs, rhs), out = params["dimension_numbers"], operands, results[0]
    features = lhs[n.lhs_spec[1]] // rhs[n.rhs_spec[1]]
    return {
        **params,
        "feature_group_count": features,
        "batch_group_count": lhs[n.lhs_spec[0]] // out[n.out_spec[0]],
    }


def _spatial(
    shapes: Sequence[Sequence[int]], params: Mapping[str, Any]
) -> tuple[list[Any], list[Any], list[Any], dict[Any, int], int]:
    """Labels of the spatial dims of input, window and output, sizes of new labels, and points of the whole ones."""
    inner, kernel, outer, sizes, points = [], [], [], {}, 1
    for d, (size, window, out) in enumerate(zip(*shapes, strict=True)):
        if tiles(size, window, out, d, params):
            sizes |= {("o", d): out, ("k", d): window}
            labels = [("o", d), ("k", d)], ("k", d), ("o", d)
        else:
            points *= window * out
            labels = Whole("in", d), Whole("window", d), Whole("out", d)
        for row, label in zip((inner, kernel, outer), labels):
            row.append(label)
    return inner, kernel, outer, sizes, points


def tiles(size: int, window: int, out: int, d: int, params: Mapping[str, Any]) -> bool:
    """Whether the windows of dim `d` follow each other without overlap, gap, padding or dilation."""
    dilations = ("lhs_dilation", "rhs_dilation", "base_dilation", "window_dilation")
    return (
        size == window * out
        and params["window_strides"][d] == window
        and tuple(params["padding"][d]) == (0, 0)
        and all(params[name][d] == 1 for name in dilations if params.get(name) is not None)
    )
