"""Elementwise primitives: every dim is a factor of its own, and size-1 dims and scalars broadcast."""

from typing import Any

from jax.numpy import dtype, inexact, issubdtype

from planner.rules.labels import Shapes, Whole, labelled
from planner.rules.registry import register
from planner.rules.rule import Rule

TRANSCENDENTAL = 10.0
"""FLOPs of exp, tanh and their like: polynomials of degree 5 to 10 on every vector unit. Only its size matters: even
ten FLOPs for every four bytes are bound by memory."""

Linear = tuple[tuple[int, ...], ...]

_MOVES = """conj copy copy_p imag layout_constraint name real reshard sharding_constraint stop_gradient
    xla_metadata_value"""

_OTHER_MOVES: dict[str, Linear] = {
    "complex": ((0, 1),),
    "platform_index": (),
    "random_clone": (),
    "reduce_precision": (),
    "tie": ((1,),),
    "zeros_like": (),
}

_LINEAR: dict[str, Linear] = {
    "add": ((0, 1),),
    "add_any": ((0, 1),),
    "div": ((0,),),
    "mul": ((0,), (1,)),
    "neg": ((0,),),
    "sub": ((0, 1),),
}

_CHEAP = """abs add add_any and ceil clamp clz div eq eq_to floor ge gt is_finite le le_to lt lt_to max min mul
    mulhi ne neg nextafter not one_minus_square or population_count rem round shift_left shift_right_arithmetic
    shift_right_logical sign square sub xor"""

_TRANSCENDENTAL = """acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt cos cosh digamma erf erf_inv
    erfc exp exp2 expm1 igamma igamma_grad_a igammac lgamma log log1p log2 logistic polygamma pow random_gamma_grad
    regularized_incomplete_beta rsqrt sin sinh sqrt tan tanh zeta"""


def elementwise(in_shapes: Shapes, out_shapes: Shapes, flops: float = 0.0, linear: Linear = ()) -> Rule:
    """The rule of an operation whose results all have one shape; operands have it too, or size-1 dims, or no dims."""
    dims = range(len(out_shapes[0]))
    operands = [dims if shape else () for shape in in_shapes]
    results = [dims] * len(out_shapes)
    return labelled(operands, results, in_shapes, out_shapes, work=flops, linear=linear, fusible=True)


def _register(name: str, flops: float, linear: Linear) -> None:
    register(name)(lambda in_shapes, out_shapes, **_: elementwise(in_shapes, out_shapes, flops, linear))


for _name in _MOVES.split():
    _register(_name, 0.0, ((0,),))
for _name, _linear in _OTHER_MOVES.items():
    _register(_name, 0.0, _linear)
for _name in _CHEAP.split():
    _register(_name, 1.0, _LINEAR.get(_name, ()))
for _name in _TRANSCENDENTAL.split():
    _register(_name, TRANSCENDENTAL, ())


@register("integer_pow")
def integer_pow(in_shapes: Shapes, out_shapes: Shapes, y: int, **_: Any) -> Rule:
    """Powers by repeated squaring."""
    return elementwise(in_shapes, out_shapes, flops=float(max(1, abs(y).bit_length())))


@register("select_n")
def select_n(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Linear in all cases together; the predicate may be a scalar."""
    return elementwise(in_shapes, out_shapes, 1.0, (tuple(range(1, len(in_shapes))),))


@register("convert_element_type")
def convert_element_type(in_shapes: Shapes, out_shapes: Shapes, new_dtype: Any, **_: Any) -> Rule:
    """Linear up to rounding, unless it truncates to integers or to eight bits, too few to add up."""
    sums = issubdtype(new_dtype, inexact) and dtype(new_dtype).itemsize > 1
    return elementwise(in_shapes, out_shapes, 0.0, ((0,),) if sums else ())


@register("bitcast_convert_type")
def bitcast_convert_type(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Elementwise; a change of width adds or removes a last dim."""
    rank = min(len(in_shapes[0]), len(out_shapes[0]))
    row = [*range(rank), Whole("bytes")]
    operands, results = row[: len(in_shapes[0])], row[: len(out_shapes[0])]
    return labelled([operands], [results], in_shapes, out_shapes, fusible=True)


@register("optimization_barrier", "device_put", "dce_sink")
def each_alone(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Each result is its operand; nothing fuses across."""
    rows = [[(i, d) for d in range(len(shape))] for i, shape in enumerate(in_shapes)]
    return labelled(rows, rows[: len(out_shapes)], in_shapes, out_shapes, linear=(tuple(range(len(rows))),))


@register("shard_alike")
def shard_alike(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """The user's word that both operands are split alike: one factor for each dim of both."""
    return elementwise(in_shapes, out_shapes, linear=((0, 1),))
