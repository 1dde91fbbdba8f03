"""What the dims of a primitive mean: the factor notation of Shardy's OpShardingRule.

A **factor** is one independent loop of the operation. `bij,bjk->bik` has four of them; every dim of every operand and
result names the factors it runs over, major to minor (two where a reshape merges dims). Everything else about an
operation follows from this: its strategies, local shapes, FLOPs, collectives, and how to run it on a shard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Factors = tuple[int, ...]
Dims = tuple[Factors, ...]
Shape = tuple[int, ...]
Localise = Callable[[Mapping[str, Any], Sequence[Shape], Sequence[Shape]], Mapping[str, Any]]


def same_params(params: Mapping[str, Any], operands: Sequence[Shape], results: Sequence[Shape]) -> Mapping[str, Any]:
    """Params of the primitive on a shard, for primitives whose params hold no sizes of a sharded dim."""
    return params


@dataclass(frozen=True)
class Rule:
    """The meaning of one equation's dims.

    A factor may be split over mesh axes when it is the first factor of size > 1 in every dim that names it, it is not
    `whole`, and its size is divisible. A device then computes, from its shards of the operands, exactly its shard of
    the results, except that results are partial over axes that split a `reduced` factor.

    Attributes:
        operands: For each operand, for each dim, the factors it runs over, major to minor. A dim of size 1 names none.
        results: Likewise for each result.
        sizes: Size of each factor. The product of a dim's factor sizes is the dim.
        reduced: Factors that no result names, with how partial results combine: "sum", "max", "min", "mul", "or",
            "and".
        whole: Factors that every device needs whole (Shardy's need_replication): a sorted dim, a padded dim …
        flops: FLOPs for each point of the iteration space (the product of all factor sizes).
        linear: Groups of operands. Where all operands of one group are open sums over a mesh axis (each device holds a
            summand), and the others are not, the results are open sums over it too: `((0, 1),)` for add,
            `((0,), (1,))` for mul. A constant zero may count as open. Holds up to rounding and only where the
            results are floating or complex: integers round in div, and rules do not see dtypes.
        fusible: A compiler computes it while it reads or writes a neighbour: its operands and results need no memory
            of their own when that neighbour is fusible too. True for elementwise, moves of elements and
            reductions (after their producer); False for what has loops or buffers of its own: matmuls, convolutions,
            gathers, scatters, sorts, scans along a dim, transforms, linear algebra, concatenation, updates in place.
        touched: Elements that are read or written per operand and result (operands first) where this is not the whole
            array, as fractions of the array: a dynamic_update_slice touches only the update. Empty means all.
        localise: Params for a shard, from params and the local operand and result shapes.
        positional: Factors whose shards need more than local params: the position of the device. An iota adds its
            offset, a gather over a split table masks the rows of others, a scatter-add counts its operand once. XLA
            does so by itself.
        precision: What its products ask for, of `PRECISIONS`; it matters to float32 alone.
    """

    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    sizes: tuple[int, ...]
    reduced: Mapping[int, str] = field(default_factory=dict)
    whole: frozenset[int] = frozenset()
    flops: float = 0.0
    linear: tuple[tuple[int, ...], ...] = ()
    fusible: bool = False
    touched: tuple[float, ...] = ()
    localise: Localise = same_params
    positional: frozenset[int] = frozenset()
    precision: str = "default"

    def splittable(self) -> tuple[int, ...]:
        """Factors that a mesh axis may split, in order: not whole, and leading in every dim that names them."""
        dims = [dim for dims in self.operands + self.results for dim in dims]
        return tuple(
            f for f, size in enumerate(self.sizes) if size > 1 and f not in self.whole and self._leads(f, dims)
        )

    def sums(self) -> bool:
        """Whether results may be partial sums."""
        return any(self.reduced.get(f) == "sum" for f in self.splittable())

    def _leads(self, factor: int, dims: Sequence[Factors]) -> bool:
        return all(next(f for f in dim if self.sizes[f] > 1) == factor for dim in dims if factor in dim)


PRECISIONS = ("default", "high", "highest")
"""As in `jax.lax.Precision`."""


def precision_of(asked: Any) -> str:
    """The `precision` param of a matmul or convolution: of both operands the higher, of an algorithm what it takes."""
    if isinstance(asked, (tuple, list)):
        return max(map(precision_of, asked), key=PRECISIONS.index)
    name = getattr(asked, "name", "DEFAULT")
    if name.lower() in PRECISIONS:
        return name.lower()
    return "high" if name.endswith("X3") else "highest" if name.endswith(("X6", "X9")) or _exact(name) else "default"


def _exact(algorithm: str) -> bool:
    return algorithm.startswith(("F32_", "F64_"))


RuleOf = Callable[..., Rule]
"""`(in_shapes, out_shapes, **params) -> Rule`: shapes of the operands and results, then the equation's params."""
