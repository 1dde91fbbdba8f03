"""Reshape: the common refinement of two shapes, read from the major side.

`[6, 4] → [24]` has factors 6 and 4, `[8] → [2, 4]` has 2 and 4, `[6, 4] → [4, 6]` has 2 and a remainder that no split
respects. Only the first factor of a dim may be split (`Rule.splittable`): a shard of it is a contiguous block.
"""

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

from planner.rules.labels import Shapes, Whole
from planner.rules.registry import register
from planner.rules.rule import Rule, Shape
from planner.rules.shape import moved, sized

Rows = tuple[list[list[Any]], list[list[Any]]]


@register("reshape")
def reshape(in_shapes: Shapes, out_shapes: Shapes, dimensions: Sequence[int] | None = None, **_: Any) -> Rule:
    """Splits and merges dims; `dimensions` permutes the operand first."""
    order = range(len(in_shapes[0])) if dimensions is None else dimensions
    sizes: dict[Any, int] = {}
    permuted, result = refine(tuple(in_shapes[0][d] for d in order), out_shapes[0], sizes)
    operand = [permuted[list(order).index(d)] for d in range(len(order))]
    return moved([operand], [result], in_shapes, out_shapes, sizes=sizes, localise=sized("new_sizes"))


def refine(before: Shape, after: Shape, sizes: dict[Any, int]) -> Rows:
    """Labels of the dims of both shapes, major to minor; adds the labels' sizes to `sizes`."""
    left, right = list(before), list(after)
    rows: Rows = [[] for _ in before], [[] for _ in after]
    if prod(before) == 0:
        return _remainders(rows, left, right, sizes)
    i = j = 0
    while i < len(left) and j < len(right):
        common = gcd(left[i], right[j])
        if common == 1 and left[i] > 1 and right[j] > 1:
            i, j = _aligned(left, right, i, j)
            continue
        sizes[i, j] = common
        rows[0][i].append((i, j))
        rows[1][j].append((i, j))
        left[i], right[j] = left[i] // common, right[j] // common
        i, j = i + (left[i] == 1), j + (right[j] == 1)
    return _remainders(rows, left, right, sizes)


def _aligned(left: Sequence[int], right: Sequence[int], i: int, j: int) -> tuple[int, int]:
    """The next dims before which both shapes hold equally many elements."""
    a, b = left[i], right[j]
    while a != b:
        if a < b:
            i += 1
            a *= left[i]
        else:
            j += 1
            b *= right[j]
    return i + 1, j + 1


def _remainders(rows: Rows, left: Sequence[int], right: Sequence[int], sizes: dict[Any, int]) -> Rows:
    """What no common factor covers is whole."""
    for of, (row, rest) in enumerate(zip(rows, (left, right))):
        for d, size in enumerate(rest):
            if size != 1:
                sizes[Whole(of, d)] = size
                row[d].append(Whole(of, d))
    return rows
