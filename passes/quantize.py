"""int8 weights: half the bytes to load and to gather, while matmuls still run in the dtype of the activations.

    {x:bf16[b,e] w:bf16[e,f]. y:bf16[b,f] = dot_general x w}

becomes, with one scale per output channel, which no contraction sums over,

    {x:bf16[b,e] q:s8[e,f] s:f32[1,f]. v:bf16[e,f] = convert q; z:bf16[b,f] = dot_general x v; y = mul z s}

The conversion is exact and is done while the matmul reads `q`; the scale meets the result, so that a sum over devices
is still a sum. Weights are found through what moves their elements, and inside of loops: stacked weights
[layers, e, f] that a scan slices have scales [layers, 1, f]. Where anything else reads a weight it is multiplied out,
with a warning.

    params, *_ = quantize_arguments(fun, params, x)        shapes or arrays
    quantized(fun)(params, x)                              plan it, jit it, run it

Pope et al. 2022, section 3.6.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from passes.inline import inline
from passes.jaxpr import as_fun, bind, primitive_name, source
from passes.scaled import Pair, Walk, values_of, varies
from passes.weights import quantizable, reads_of

LARGEST = 127


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Quantized:
    """A weight in int8, `values * scales`, in the place of one in floating point.

    Attributes:
        values: int8, shaped as the weight.
        scales: float32, shaped as the weight but for size 1 in contracted dims.
        dtype: The weight's own.
    """

    values: Any
    scales: Any
    dtype: Any = field(metadata={"static": True})


def quantize_weights(weight: Any, contracted: Sequence[int]) -> Quantized:
    """A weight in int8, symmetric, with one scale for each index of the dims that are not contracted.

    A scale is the largest magnitude by 127, or 1 where all is zero, so that no value is off by more than half a scale:
    `|w - values * scales| <= scales / 2`, up to the float32 rounding of the quotient, 2**-17 scales. A channel with
    infinity or NaN becomes NaN.

    Args:
        weight: An array, or a ShapeDtypeStruct for the shapes of what would come out.
        contracted: The dims that the matmul sums over.
    """
    quantizer = partial(_quantized, contracted=tuple(contracted))
    return jax.eval_shape(quantizer, weight) if isinstance(weight, jax.ShapeDtypeStruct) else quantizer(weight)


@partial(jax.jit, static_argnames="contracted")
def _quantized(weight: Array, contracted: tuple[int, ...]) -> Quantized:
    exact = weight.astype(jnp.float32)
    scales = jnp.max(jnp.abs(exact), axis=contracted, keepdims=True) / LARGEST
    scales = jnp.where(scales == 0, 1.0, scales)
    values = jnp.clip(jnp.round(exact / scales), -LARGEST, LARGEST)
    return Quantized(values.astype(jnp.int8), scales, weight.dtype)


def quantize(closed: Any, which: Iterable[int] | None = None) -> Any:
    """The program with int8 values and float32 scales, in this order, in the place of some arguments.

    Args:
        closed: The program, a closed jaxpr.
        which: Indices of arguments; by default all that are `quantizable`.
    """
    abstract = [jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type) for aval in closed.in_avals]
    chosen = [quantize_weights(x, d) if d else x for x, d in zip(abstract, _chosen(closed, which))]
    return jax.make_jaxpr(quantized(as_fun(closed)))(*chosen)


def quantize_arguments(fun: Callable, *args: Any, which: Iterable[int] | None = None) -> tuple[Any, ...]:
    """The arguments with every weight `Quantized`.

    Args:
        fun: A function of arrays.
        *args: Its arguments: arrays, whose weights are quantized, or ShapeDtypeStructs.
        which: Indices of flat arguments; by default all that are `quantizable`.
    """
    leaves, tree = jax.tree.flatten(args)
    dims = _chosen(jax.make_jaxpr(fun)(*args), which)
    return jax.tree.unflatten(tree, [quantize_weights(x, d) if d else x for x, d in zip(leaves, dims)])


def _chosen(closed: Any, which: Iterable[int] | None) -> list[tuple[int, ...] | None]:
    """For each argument the dims along which its scales do not vary; None if it stays."""
    count = len(closed.jaxpr.invars)
    if which is None:
        return list(map(quantizable(closed).get, range(count)))
    reads, found = reads_of(closed), dict.fromkeys(range(count))
    for i in which:
        found[i] = tuple(sorted({d for read in reads.get(i, ()) for d in read.contracted}))
        if not found[i]:
            raise ValueError(f"no matmul contracts argument {i}: leave it out; quantizable() lists those that will do")
    return list(found.values())


def quantized(fun: Callable) -> Callable:
    """The function, for arguments of which some arrays are `Quantized`.

    Where a weight is read by anything but a matmul over its contracted dims it is multiplied out there, and a warning
    names the place.
    """

    @wraps(fun)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result, notes = _evaluate(fun, args, kwargs)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        return result

    return wrapped


def dequantized(fun: Callable, *args: Any, **kwargs: Any) -> tuple[str, ...]:
    """Where `quantized(fun)` would multiply weights out: which weight, before which operation, at which line."""
    found: tuple[str, ...] = ()

    def noting(*args: Any, **kwargs: Any) -> Any:
        nonlocal found
        result, found = _evaluate(fun, args, kwargs)
        return result

    jax.eval_shape(noting, *args, **kwargs)
    return found


def _evaluate(fun: Callable, args: Any, kwargs: Any) -> tuple[Any, tuple[str, ...]]:
    """The result and the notes. All but quantized weights is closed over, whatever it is."""
    bound = signature(fun).bind(*args, **kwargs)
    leaves, tree = jax.tree_util.tree_flatten_with_path(dict(bound.arguments), is_leaf=_is_quantized)
    weights = {i: q for i, (_, q) in enumerate(leaves) if _is_quantized(q)}

    def partly(exact: Mapping[int, Array]) -> Any:
        bound.arguments.update(jax.tree.unflatten(tree, [exact.get(i, x) for i, (_, x) in enumerate(leaves)]))
        return fun(*bound.args, **bound.kwargs)

    exact = {i: jax.ShapeDtypeStruct(q.values.shape, q.dtype) for i, q in weights.items()}
    closed, shapes = jax.make_jaxpr(partly, return_shape=True)(exact)
    closed, walk = inline(closed), _Scaled()
    pairs = [Pair(q.values, (q.scales,), _name(leaves[i][0])) for i, q in weights.items()]
    flat = walk.body(closed.jaxpr, *closed.consts, *pairs)
    return jax.tree.unflatten(jax.tree.structure(shapes), flat), tuple(dict.fromkeys(walk.notes))


def _name(path: Sequence[Any]) -> str:
    """As the user would write it, such as `params['up']`."""
    return f"{path[0].key}{jax.tree_util.keystr(tuple(path[1:]))}"


def _is_quantized(x: Any) -> bool:
    return isinstance(x, Quantized)


class _Scaled(Walk):
    """Contracts int8 values and scales the result."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def dot(self, eqn: Any, lhs: Any, rhs: Any) -> Array:
        whole = [self._unless_late(eqn, side, x) for side, x in enumerate((lhs, rhs))]
        (result,) = bind(eqn, *map(values_of, whole, eqn.invars))
        for side, x in enumerate(whole):
            result = _times(result, _aligned(eqn, side, x.scales[0], result.ndim)) if isinstance(x, Pair) else result
        return result

    def _unless_late(self, eqn: Any, side: int, x: Any) -> Any:
        """Scales that vary along what is contracted must come before."""
        late = isinstance(x, Pair) and varies(x.scales[0], eqn.params["dimension_numbers"][0][side])
        return self.array(x, eqn.invars[side], eqn) if late else x

    def plain(self, pair: Pair, dtype: Any, eqn: Any) -> Array:
        where = (
            f"{primitive_name(eqn)} at {source(eqn) or 'an unknown line'}" if eqn else "it leaves a loop or function"
        )
        self.notes.append(
            f"{pair.name} is int8 but multiplied out before {where}: only a matmul over dims without scales reads int8"
        )
        return _times(pair.values.astype(dtype), pair.scales[0])


def _times(x: Array, scales: Array) -> Array:
    """Computed in float32 at least, rounded once."""
    return (x.astype(jnp.promote_types(x.dtype, scales.dtype)) * scales).astype(x.dtype)


def _aligned(eqn: Any, side: int, scales: Array, rank: int) -> Array:
    """The scales where a `dot_general`'s result has their dims: batch dims, then the free ones of either side."""
    contracted, batch = (tuple(sides[side]) for sides in eqn.params["dimension_numbers"])
    free = tuple(d for d in range(scales.ndim) if d not in contracted + batch)
    first, last = (tuple(scales.shape[d] for d in dims) for dims in (batch, free))
    others = (1,) * (rank - len(first) - len(last))
    shape = (*first, *others, *last) if side else (*first, *last, *others)
    return lax.transpose(scales, (*sorted(contracted), *batch, *free)).reshape(shape)
