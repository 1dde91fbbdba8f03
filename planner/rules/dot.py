"""Matrix products: batch dims, free dims of either side, and contracted dims that leave partial sums."""

from collections.abc import Sequence
from math import prod
from typing import Any

from planner.rules.labels import Shapes, Whole, labelled
from planner.rules.registry import register
from planner.rules.rule import Rule, precision_of

Pair = tuple[Sequence[int], Sequence[int]]


def _row(free: str, rank: int, contracted: Sequence[int], batch: Sequence[int]) -> list[Any]:
    row: list[Any] = [(free, d) for d in range(rank)]
    for letter, dims in ("c", contracted), ("b", batch):
        for i, d in enumerate(dims):
            row[d] = (letter, i)
    return row


def _free(row: Sequence[Any]) -> list[Any]:
    return [label for label in row if label[0] in "lr"]


@register("dot_general")
def dot_general(
    in_shapes: Shapes, out_shapes: Shapes, dimension_numbers: tuple[Pair, Pair], precision: Any = None, **_: Any
) -> Rule:
    """A multiply and an add at each point of batch × lhs free × rhs free × contracted."""
    (lhs_c, rhs_c), (lhs_b, rhs_b) = dimension_numbers
    lhs = _row("l", len(in_shapes[0]), lhs_c, lhs_b)
    rhs = _row("r", len(in_shapes[1]), rhs_c, rhs_b)
    results = [[*(lhs[d] for d in lhs_b), *_free(lhs), *_free(rhs)]]
    reduced = {("c", i): "sum" for i in range(len(lhs_c))}
    kind: dict[str, Any] = {"work": 2.0, "linear": ((0,), (1,)), "precision": precision_of(precision)}
    return labelled([lhs, rhs], results, in_shapes, out_shapes, reduced=reduced, **kind)


@register("scaled_dot")
def scaled_dot(in_shapes: Shapes, out_shapes: Shapes, dimension_numbers: tuple[Pair, Pair], **_: Any) -> Rule:
    """A matmul of narrow operands, each with a scale for every block of contracted elements.

    A contracted dim is blocks × elements of a block. Where both sides have equally many blocks they may be split.
    """
    (lhs_c, rhs_c), (lhs_b, rhs_b) = dimension_numbers
    lhs, rhs = _row("l", len(in_shapes[0]), lhs_c, lhs_b), _row("r", len(in_shapes[1]), rhs_c, rhs_b)
    results = [[*(lhs[d] for d in lhs_b), *_free(lhs), *_free(rhs)]]
    scales = [list(lhs), list(rhs)]
    sizes: dict[Any, int] = {}
    for i, (left, right) in enumerate(zip(lhs_c, rhs_c)):
        blocks, others = in_shapes[2][left], in_shapes[3][right]
        even = blocks == others
        label: Any = ("c", i) if even else Whole(("c", i))
        sizes |= {label: blocks if even else in_shapes[0][left], ("k", i): in_shapes[0][left] // blocks if even else 1}
        lhs[left] = rhs[right] = [label, ("k", i)]
        scales[0][left], scales[1][right] = (label, label) if even else (Whole("lhs", i), Whole("rhs", i))
    reduced = {(of, i): "sum" for of in "ck" for i in range(len(lhs_c))}
    return labelled([lhs, rhs, *scales], results, in_shapes, out_shapes, sizes=sizes, reduced=reduced, work=2.0)


@register("ragged_dot_general")
def ragged_dot_general(
    in_shapes: Shapes, out_shapes: Shapes, ragged_dot_dimension_numbers: Any, precision: Any = None, **_: Any
) -> Rule:
    """Rows in groups, each group with a matrix of its own. All groups are taken to have equally many rows.

    A device with some of the rows takes of each group what lies in them; one with some of the groups takes their rows
    and leaves the others to those who have theirs. Both must know where groups begin, so the sizes are whole. Where
    there are sizes for each of a batch, or the groups are of a batch dim, rows and groups are whole.
    """
    n = ragged_dot_dimension_numbers
    (lhs_c, rhs_c), (lhs_b, rhs_b) = n.dot_dimension_numbers
    lhs = _row("l", len(in_shapes[0]), lhs_c, lhs_b)
    rhs = _row("r", len(in_shapes[1]), rhs_c, rhs_b)
    ragged = [lhs[d] for d in n.lhs_ragged_dimensions]
    splits = len(in_shapes[2]) == len(ragged) == 1 and ragged[0][0] != "b"
    group: Any = ("group",) if splits else Whole("group")
    named = {} if splits else {la: Whole("ragged", d) for d, la in zip(n.lhs_ragged_dimensions, ragged)}
    named |= {rhs[d]: group for d in n.rhs_group_dimensions}
    result = [*(lhs[d] for d in lhs_b), *_free(lhs), *(la for la in _free(rhs) if named.get(la) != group)]
    summed = any(la[0] == "c" for la in ragged)  # each group of summands has a result of its own
    result = [group, *result] if summed else result
    sizes = [Whole("sizes", d) for d in range(len(in_shapes[2]))]
    lhs, rhs, result = ([named.get(la, la) for la in row] for row in (lhs, rhs, result))
    reduced: dict[Any, str] = {("c", i): "sum" for i in range(len(lhs_c))}
    return labelled(
        [lhs, rhs, sizes if splits else [*sizes[:-1], group]],
        [result],
        in_shapes,
        out_shapes,
        reduced=reduced | ({group: "sum"} if splits and not summed else {}),
        positional=[*ragged, group] if splits else (),
        work=2.0 / in_shapes[2][0] if splits else 2.0 * prod(in_shapes[0][d] for d in n.lhs_ragged_dimensions),
        linear=((0,), (1,)),
        precision=precision_of(precision),
    )
