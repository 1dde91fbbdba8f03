"""Rules from labelled dims: give every dim a label, and equal labels become one factor.

`labelled(["bij", "bjk"], ["bik"], ...)` is a batched matmul. A label is a letter, a number, anything hashable; a list
of labels is a merged dim, major to minor. A `Whole` label is a factor that every device needs whole. A dim of size 1
names no factor whatever its label, which is also how size-1 dims broadcast.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from planner.rules.rule import Dims, Rule, Shape

Labels = Sequence[Hashable | list[Hashable]]
Shapes = Sequence[Shape]


@dataclass(frozen=True)
class Whole:
    """A label whose factor is never split: dim `dim` of the array (or group of arrays) `of`."""

    of: Hashable
    dim: int = 0


def labelled(
    operands: Sequence[Labels],
    results: Sequence[Labels],
    in_shapes: Shapes,
    out_shapes: Shapes,
    *,
    sizes: Mapping[Any, int] | None = None,
    reduced: Mapping[Any, str] | None = None,
    positional: Iterable[Hashable] = (),
    work: float = 0.0,
    **fields: Any,
) -> Rule:
    """A rule from one label per dim.

    Args:
        operands: Labels of each operand's dims.
        results: Labels of each result's dims.
        in_shapes: Shapes of the operands.
        out_shapes: Shapes of the results.
        sizes: Sizes of labels that occur in merged dims only.
        reduced: How partial results over a label combine.
        positional: Labels whose split needs the position of the device.
        work: FLOPs for each point of the factors that are not `Whole`, all points of the `Whole` ones together.
        fields: Further fields of `Rule`.

    Raises:
        ValueError: If a dim is not the product of its labels' sizes.
    """
    known = {**(sizes or {}), **_sizes([*operands, *results], [*in_shapes, *out_shapes])}
    factor = {la: i for i, la in enumerate(la for la, size in known.items() if size != 1)}
    whole, dims = [label for label in factor if isinstance(label, Whole)], partial(_dims, known, factor)
    return Rule(
        operands=tuple(dims(la, shape) for la, shape in zip(operands, in_shapes, strict=True)),
        results=tuple(dims(la, shape) for la, shape in zip(results, out_shapes, strict=True)),
        sizes=tuple(known[label] for label in factor),
        reduced={factor[la]: how for la, how in (reduced or {}).items() if la in factor},
        whole=frozenset(factor[la] for la in whole),
        flops=work / (prod(known[la] for la in whole) or 1),
        positional=frozenset(factor[la] for la in positional if la in factor),
        **fields,
    )


def _dims(known: Mapping[Any, int], factor: Mapping[Any, int], labels: Labels, shape: Shape) -> Dims:
    """The factors of each dim, major to minor."""
    named = tuple(tuple(la for la in _many(e) if la in factor) for e in labels)
    named = tuple(() if size == 1 else las for las, size in zip(named, shape, strict=True))
    if tuple(prod(known[la] for la in las) for las in named) != tuple(shape):
        raise ValueError(f"shape {shape} does not fit the labels {list(labels)} of sizes {known}")
    return tuple(tuple(factor[la] for la in las) for las in named)


def cut(kept: Sequence[bool], before: Hashable = "in", after: Hashable = "out") -> tuple[Labels, Labels]:
    """Labels before and after an operation that keeps some dims as they are and cuts or pads the others."""
    return (
        [d if keep else Whole(before, d) for d, keep in enumerate(kept)],
        [d if keep else Whole(after, d) for d, keep in enumerate(kept)],
    )


def share(part: Shape, full: Shape) -> float:
    """The share of an array of shape `full` that `part` is, at most 1."""
    return min(1.0, prod(part) / (prod(full) or 1))


def _many(entry: Hashable | list[Hashable]) -> list[Hashable]:
    return entry if isinstance(entry, list) else [entry]


def _sizes(rows: Iterable[Labels], shapes: Shapes) -> dict[Hashable, int]:
    sizes: dict[Hashable, int] = {}
    for labels, shape in zip(rows, shapes, strict=True):
        for entry, size in zip(labels, shape, strict=True):
            if not isinstance(entry, list) and size != 1:
                sizes.setdefault(entry, size)
    return sizes
