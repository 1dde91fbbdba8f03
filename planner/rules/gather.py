"""Gather and scatter: lookups in a table, and their transposes.

Batch dims of the indices and dims of the table taken in full may be split freely. The looked-up dim may be split too,
as for a sharded vocabulary: a gather then masks the rows it does not hold and leaves partial sums, a scatter drops the
updates that are not for it. Both need the position of the device. A scatter-add over split updates leaves partial sums,
and its operand must be counted once, which needs the position as well.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from planner.rules.labels import Shapes, Whole, labelled, share
from planner.rules.registry import register
from planner.rules.rule import Rule

_COMBINE: dict[str, str | None] = {
    "scatter": None,
    "scatter-add": "sum",
    "scatter-max": "max",
    "scatter-min": "min",
    "scatter-mul": "mul",
    "scatter-sub": "sum",
}


def _indices(rank: int) -> list[Any]:
    """Labels of the indices: batch dims, then the dim that holds one index per looked-up dim."""
    return [*(("batch", d) for d in range(rank - 1)), Whole("index")]


def _windowed(rank: int, window: Sequence[int], inner: Sequence[Any], outer: Sequence[Any]) -> list[Any]:
    """Labels of an array whose dims `window` are the inner ones, in order, and whose other dims are the outer ones."""
    inside, outside = iter(inner), iter(outer)
    return [next(inside) if d in window else next(outside) for d in range(rank)]


def _table(shape: Sequence[int], batching: Sequence[int], batch: Sequence[int], looked_up: Sequence[int]) -> list[Any]:
    row: list[Any] = [("row", d) if d in looked_up else ("full", d) for d in range(len(shape))]
    for d, b in zip(batching, batch, strict=True):
        row[d] = ("batch", b)
    return row


def _split_cut(row: list[Any], of: str, sizes: Sequence[int], window: Mapping[int, int]) -> list[Any]:
    """Dims of a window narrower than the table's dim are whole."""
    return [Whole(of, d) if window.get(d, sizes[d]) != sizes[d] else la for d, la in enumerate(row)]


@register("gather")
def gather(in_shapes: Shapes, out_shapes: Shapes, dimension_numbers: Any, slice_sizes: Sequence[int], **_: Any) -> Rule:
    """A lookup of windows of `slice_sizes`. Reads of the table only what it returns."""
    n = dimension_numbers
    hidden = {*n.collapsed_slice_dims, *n.operand_batching_dims}
    window = {d: size for d, size in enumerate(slice_sizes) if d not in hidden}
    looked_up = [d for d in n.collapsed_slice_dims if d in n.start_index_map]
    row = _table(in_shapes[0], n.operand_batching_dims, n.start_indices_batching_dims, looked_up)
    indices = _indices(len(in_shapes[1]))
    table = _split_cut(row, "table", in_shapes[0], window | dict.fromkeys(_never(n), 1))
    inner = [_split_cut(row, "window", in_shapes[0], window)[d] for d in window]
    result = _windowed(len(out_shapes[0]), n.offset_dims, inner, indices[:-1])
    rows = [("row", d) for d in looked_up]
    fields: dict[str, Any] = {"reduced": dict.fromkeys(rows, "sum"), "positional": rows, "linear": ((0,),)}
    touched = (share(out_shapes[0], in_shapes[0]), 1.0, 1.0)
    return labelled([table, indices], [result], in_shapes, out_shapes, touched=touched, localise=_slices, **fields)


def _never(n: Any) -> list[int]:
    """Dims of which the first element is always taken."""
    return [d for d in n.collapsed_slice_dims if d not in n.start_index_map]


def _slices(params: Mapping[str, Any], operands: Shapes, _: Shapes) -> Mapping[str, Any]:
    sizes = (min(window, size) for window, size in zip(params["slice_sizes"], operands[0]))
    return {**params, "slice_sizes": tuple(sizes)}


def _scatter(in_shapes: Shapes, out_shapes: Shapes, n: Any, how: str | None) -> Rule:
    table_shape, indices_shape, updates_shape = in_shapes
    hidden = {*n.inserted_window_dims, *n.operand_batching_dims}
    shown = [d for d in range(len(table_shape)) if d not in hidden]
    window = dict(zip(shown, (updates_shape[d] for d in n.update_window_dims), strict=True))
    row = _table(table_shape, n.operand_batching_dims, n.scatter_indices_batching_dims, n.inserted_window_dims)
    table = _split_cut(row, "table", table_shape, window)
    inner = [_split_cut(row, "window", table_shape, window)[d] for d in shown]
    indices = _indices(len(indices_shape))
    free = [la for d, la in enumerate(indices[:-1]) if d not in n.scatter_indices_batching_dims]
    if how is None:  # the last write wins, so every device must see all writes in order
        indices = [Whole("write", d) if la in free else la for d, la in enumerate(indices)]
    updates = _windowed(len(updates_shape), n.update_window_dims, inner, indices[:-1])
    rows = [("row", d) for d in n.inserted_window_dims]
    once = free if how in ("sum", "mul") else []
    part = share(updates_shape, table_shape)
    return labelled(
        [table, indices, updates],
        [table],
        in_shapes,
        out_shapes,
        reduced=dict.fromkeys(free, how) if how else {},
        positional=[*rows, *once],
        work=(1.0 if how else 0.0) / (prod(table_shape[d] for d in n.inserted_window_dims) or 1),
        linear=((0, 2),) if how in (None, "sum") else (),
        touched=(part, 1.0, 1.0, part),
    )


def _register(name: str, how: str | None) -> None:
    @register(name)
    def scatter(in_shapes: Shapes, out_shapes: Shapes, dimension_numbers: Any, **_: Any) -> Rule:
        return _scatter(in_shapes, out_shapes, dimension_numbers, how)


for _name, _how in _COMBINE.items():
    _register(_name, _how)
