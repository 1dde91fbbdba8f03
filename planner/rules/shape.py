"""Primitives that move elements but compute nothing: layouts, new dims, joins and padding.

Where each element of the result is one element of one operand, the move is an index computation in the loop of a
neighbour: fusible. A concatenation is so where its operands are whole tiles of its last dim, as in the rotation of
heads of 256; else compilers write its operands into one buffer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from planner.rules.labels import Labels, Shapes, Whole, cut, labelled
from planner.rules.registry import register
from planner.rules.rule import Localise, Rule

LANES = 128
"""Elements of the last dim in a tile of a TPU."""


def sized(param: str) -> Localise:
    """On a shard, a param that holds the shape of the result holds the shard's; `empty2`, a scalar, has none."""

    def localise(params: Mapping[str, Any], _: Shapes, results: Shapes) -> Mapping[str, Any]:
        return {**params, param: tuple(results[0])} if param in params else params

    return localise


def moved(
    operands: Sequence[Labels], results: Sequence[Labels], in_shapes: Shapes, out_shapes: Shapes, **fields: Any
) -> Rule:
    """A rule of no FLOPs, fused and linear in all operands together."""
    fields = {"fusible": True, "linear": (tuple(range(len(operands))),), **fields}
    return labelled(operands, results, in_shapes, out_shapes, **fields)


@register("transpose")
def transpose(in_shapes: Shapes, out_shapes: Shapes, permutation: Sequence[int], **_: Any) -> Rule:
    """Dims in another order."""
    return moved([range(len(permutation))], [list(permutation)], in_shapes, out_shapes)


@register("squeeze")
def squeeze(in_shapes: Shapes, out_shapes: Shapes, dimensions: Sequence[int], **_: Any) -> Rule:
    """Drops dims of size 1."""
    dims = range(len(in_shapes[0]))
    return moved([dims], [[d for d in dims if d not in dimensions]], in_shapes, out_shapes)


@register("broadcast_in_dim")
def broadcast_in_dim(in_shapes: Shapes, out_shapes: Shapes, broadcast_dimensions: Sequence[int], **_: Any) -> Rule:
    """New dims are factors that only the result names: any split of them is free."""
    result = range(len(out_shapes[0]))
    return moved([list(broadcast_dimensions)], [result], in_shapes, out_shapes, localise=sized("shape"))


@register("iota", "empty", "empty2")
def iota(in_shapes: Shapes, out_shapes: Shapes, dimension: int = -1, **_: Any) -> Rule:
    """Values from nothing; along `dimension` they depend on the offset of the shard."""
    result = range(len(out_shapes[0]))
    return moved([], [result], in_shapes, out_shapes, linear=(), positional=(dimension,), localise=sized("shape"))


@register("rev")
def rev(in_shapes: Shapes, out_shapes: Shapes, dimensions: Sequence[int], **_: Any) -> Rule:
    """A reversed dim would swap shards between devices: whole."""
    row = [Whole("rev", d) if d in dimensions else d for d in range(len(in_shapes[0]))]
    return moved([row], [row], in_shapes, out_shapes)


@register("pad")
def pad(in_shapes: Shapes, out_shapes: Shapes, padding_config: Sequence[Sequence[int]], **_: Any) -> Rule:
    """Padded dims are whole. Linear in operand and padding value together: a literal zero may count as open."""
    operand, result = cut([not any(config) for config in padding_config])
    return moved([operand, []], [result], in_shapes, out_shapes)


@register("concatenate")
def concatenate(in_shapes: Shapes, out_shapes: Shapes, dimension: int, **_: Any) -> Rule:
    """The joined dim is whole in every operand and in the result."""
    dims = range(len(out_shapes[0]))
    rows = [[Whole(i, d) if d == dimension else d for d in dims] for i in [*range(len(in_shapes)), "result"]]
    aligned = dimension == len(dims) - 1 and all(shape[dimension] % LANES == 0 for shape in in_shapes)
    return moved(rows[:-1], rows[-1:], in_shapes, out_shapes, fusible=aligned)


@register("stack")
def stack(in_shapes: Shapes, out_shapes: Shapes, axis: int, **_: Any) -> Rule:
    """The new dim is whole."""
    row: list[Any] = list(range(len(in_shapes[0])))
    result = [*row[:axis], Whole("stack"), *row[axis:]]
    return moved([row] * len(in_shapes), [result], in_shapes, out_shapes, fusible=False)


@register("unstack")
def unstack(in_shapes: Shapes, out_shapes: Shapes, axis: int, **_: Any) -> Rule:
    """The dim that is taken apart is whole."""
    row: list[Any] = list(range(len(out_shapes[0]) if out_shapes else len(in_shapes[0]) - 1))
    operand = [*row[:axis], Whole("stack"), *row[axis:]]
    return moved([operand], [row] * len(out_shapes), in_shapes, out_shapes)


@register("split")
def split(in_shapes: Shapes, out_shapes: Shapes, axis: int, **_: Any) -> Rule:
    """The dim that is cut is whole in the operand and in every result."""
    dims = range(len(in_shapes[0]))
    rows = [[Whole(i, d) if d == axis else d for d in dims] for i in ["operand", *range(len(out_shapes))]]
    return moved(rows[:1], rows[1:], in_shapes, out_shapes)


@register("tile")
def tile(in_shapes: Shapes, out_shapes: Shapes, reps: Sequence[int], **_: Any) -> Rule:
    """A repeated dim is copies × dim: the copies may be split, the dim under them may not."""
    dims = range(len(reps))
    sizes = {("copy", d): n for d, n in enumerate(reps)}
    result = [[("copy", d), d] for d in dims]

    def localise(params: Mapping[str, Any], operands: Shapes, results: Shapes) -> Mapping[str, Any]:
        return {**params, "reps": tuple(n // m for n, m in zip(results[0], operands[0]))}

    return moved([dims], [result], in_shapes, out_shapes, sizes=sizes, localise=localise)
