"""Programs of a few equations each, over all families of primitives: the material of the rule tests."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name


class Sample(NamedTuple):
    name: str
    fun: Callable[..., Any]
    args: tuple[Any, ...]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    """Positive, distinct and not too regular: in the domain of log, sqrt and most others."""
    values = np.random.default_rng(seed + 17 * sum(shape)).uniform(0.1, 0.9, shape)
    return values.astype(np.float32)


def signed(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(2 * floats(*shape, seed=seed) - 1, np.float32)


def ints(limit: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + 5).integers(0, limit, shape).astype(np.int32)


def bools(*shape: int) -> np.ndarray:
    return signed(*shape) > 0


def spd(*shape: int) -> np.ndarray:
    """Symmetric positive definite matrices."""
    x = signed(*shape)
    return np.asarray(x @ np.swapaxes(x, -1, -2) + 2 * np.eye(shape[-1]), np.float32)


def key(*shape: int) -> Any:
    return jax.random.key(0) if not shape else jax.random.split(jax.random.key(0), shape)


def conv(
    strides: int | tuple[int, ...] = 1,
    padding: Any = "SAME",
    numbers: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"),
    **kwargs: Any,
) -> Callable[..., Any]:
    spatial = len(numbers[0]) - 2
    steps = (strides,) * spatial if isinstance(strides, int) else strides
    return lambda x, k: lax.conv_general_dilated(x, k, steps, padding, dimension_numbers=numbers, **kwargs)


def pool(init: Any, fun: Any, window: int, stride: int, padding: str = "VALID") -> Callable[..., Any]:
    dims, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lambda x: lax.reduce_window(x, init, fun, dims, strides, padding)


def ragged(numbers: Any) -> Callable[..., Any]:
    return lambda x, w, sizes: lax.ragged_dot_general(x, w, sizes, numbers)


def scaled(x: Any, w: Any, left: Any, right: Any) -> Any:
    """With the scales of blocks as powers of two, for each side."""
    x, w = x.astype(jnp.float8_e4m3fn), w.astype(jnp.float8_e4m3fn)
    left, right = (s.astype(jnp.float8_e8m0fnu) for s in (left, right))
    numbers = (((2,), (1,)), ((0,), (0,)))
    return lax.scaled_dot(
        x, w, lhs_scale=left, rhs_scale=right, dimension_numbers=numbers, preferred_element_type=jnp.float32
    )


def recur(left: Any, right: Any) -> Any:
    """A step of a linear recurrence, as a state-space model combines them."""
    return left[0] * right[0], right[0] * left[1] + right[1]


def grad(fun: Callable[..., Any], argnums: Any = 0) -> Callable[..., Any]:
    return jax.grad(lambda *args: jnp.sum(jnp.sin(fun(*args))), argnums)


UNARY: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        *(lax.abs, lax.neg, lax.sign, lax.floor, lax.ceil, lax.round, lax.is_finite, lax.square, lax.sqrt),
        *(lax.rsqrt, lax.cbrt, lax.exp, lax.exp2, lax.expm1, lax.log, lax.log1p, lax.logistic, lax.tanh),
        *(lax.sin, lax.cos, lax.tan, lax.sinh, lax.cosh, lax.asin, lax.acos, lax.atan, lax.asinh, lax.atanh),
        *(lax.erf, lax.erfc, lax.erf_inv, lax.lgamma, lax.digamma, lax.bessel_i0e, lax.bessel_i1e),
    )
}
BINARY: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        *(lax.add, lax.sub, lax.mul, lax.div, lax.max, lax.min, lax.pow, lax.rem, lax.atan2, lax.nextafter),
        *(lax.eq, lax.ne, lax.lt, lax.le, lax.gt, lax.ge, lax.complex),
    )
}
INTEGER: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        *(lax.bitwise_and, lax.bitwise_or, lax.bitwise_xor, lax.shift_left, lax.shift_right_logical),
        *(lax.shift_right_arithmetic,),
    )
}

X, CUBE, SIZES = floats(8, 16), floats(8, 4, 8), np.array([3, 5], np.int32)
RAGGED = lax.RaggedDotDimensionNumbers
NARROW = floats(2, 8, 16), floats(2, 16, 16)
IMAGE, KERNEL = floats(8, 8, 8, 4), floats(3, 3, 4, 8)
GRID = lax.GatherDimensionNumbers
PUT = lax.ScatterDimensionNumbers

ELEMENTWISE = [
    *(Sample(name, fun, (X,)) for name, fun in UNARY.items()),
    *(Sample(name, fun, (X, floats(8, 16, seed=1))) for name, fun in BINARY.items()),
    *(Sample(name, fun, (ints(9, 8, 16), ints(9, 8, 16, seed=1))) for name, fun in INTEGER.items()),
    Sample("integer", lambda x: (~x, lax.population_count(x), lax.clz(x), x + 1, -x), (ints(9, 8, 16),)),
    Sample("broadcast of size 1", lambda x, y: x * y, (X, floats(8, 1))),
    Sample("array and scalar", lambda x, y: (x * y, y - x, x / y), (X, np.float32(3))),
    Sample("integer_pow", lambda x: (x**3, x**-2), (X,)),
    Sample("select_n", jnp.where, (bools(8, 16), X, floats(8, 16, seed=1))),
    Sample("select_n by a scalar", lambda p, x, y: lax.select_n(p, x, y), (np.True_, X, -X)),
    Sample("clamp", lax.clamp, (np.float32(0.2), X, np.float32(0.6))),
    Sample("clamp by arrays", lax.clamp, (X / 2, X, X / 3 + 0.2)),
    Sample("convert", lambda x: (x.astype(jnp.bfloat16), x.astype(jnp.int32), x > 0), (signed(8, 16),)),
    Sample("reduce_precision", lambda x: lax.reduce_precision(x, 8, 7), (X,)),
    Sample("bitcast", lambda x: lax.bitcast_convert_type(x, jnp.int32), (X,)),
    Sample("bitcast to narrower", lambda x: lax.bitcast_convert_type(x, jnp.uint8), (X,)),
    Sample("bitcast to wider", lambda x: lax.bitcast_convert_type(x, jnp.int32), (np.ones((8, 4), np.uint8),)),
    Sample("copies", lambda x: (jnp.copy(x), lax.stop_gradient(x)), (X,)),
    Sample("barrier", lambda x, y: lax.optimization_barrier((x, y)), (X, floats(16, 4))),
    Sample("names", lambda x: checkpoint_name(x, "x"), (X,)),
    Sample("complex parts", lambda x: (lax.real(x), lax.imag(x), lax.conj(x)), (X + 1j * X,)),
    Sample("gelu", grad(jax.nn.gelu), (X,)),
    Sample("silu", grad(jax.nn.silu), (X,)),
]

DOT = [
    Sample("matmul", lambda x, w: x @ w, (X, floats(16, 8))),
    Sample("matmul, lhs transposed", lambda x, w: lax.dot_general(x, w, (((0,), (0,)), ((), ()))), (X, X)),
    Sample("matmul, rhs transposed", lambda x, w: lax.dot_general(x, w, (((1,), (1,)), ((), ()))), (X, X)),
    Sample("batched matmul", lambda x, w: x @ w, (floats(8, 4, 16), floats(8, 16, 4))),
    Sample("inner product", jnp.vdot, (floats(16), floats(16, seed=1))),
    Sample("outer product", jnp.outer, (floats(16), floats(8))),
    Sample("matrix and vector", lambda x, v: x @ v, (X, floats(16))),
    Sample("vector and matrix", lambda v, x: v @ x, (floats(8), X)),
    Sample("two contracted", lambda x, w: jnp.einsum("bhd,hdm->bm", x, w), (floats(8, 4, 8), floats(4, 8, 8))),
    Sample(
        "batch in the middle",
        lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k),
        (floats(4, 8, 4, 8), floats(4, 8, 4, 8)),
    ),
    Sample("no contraction", lambda x, y: jnp.einsum("bi,bj->bij", x, y), (X, floats(8, 4))),
    Sample("width 1", lambda x, w: x @ w, (floats(8, 1), floats(1, 16))),
    Sample("preferred type", lambda x, w: jnp.matmul(x, w, preferred_element_type=jnp.float32), (X, X.T.copy())),
    Sample("gradients", grad(lambda x, w: x @ w, (0, 1)), (X, floats(16, 8))),
    Sample("batched gradients", grad(lambda x, w: x @ w, (0, 1)), (floats(4, 8, 8), floats(4, 8, 4))),
    Sample("ragged", lax.ragged_dot, (X, floats(2, 16, 8), np.array([3, 5], np.int32))),
    Sample("ragged of four", lax.ragged_dot, (X, floats(4, 16, 8), np.array([3, 0, 1, 4], np.int32))),
    Sample("ragged gradients", grad(lax.ragged_dot, (0, 1)), (X, floats(2, 16, 8), np.array([3, 5], np.int32))),
    Sample("ragged contraction", ragged(RAGGED((((0,), (0,)), ((), ())), (0,), ())), (X, floats(8, 4), SIZES)),
    Sample("ragged batch", ragged(RAGGED((((2,), (1,)), ((0,), (0,))), (0,), ())), (CUBE, floats(8, 8, 4), SIZES)),
    Sample("scaled", scaled, (*NARROW, np.ones((2, 8, 4)), np.ones((2, 4, 16)))),
    Sample("scaled in one block", scaled, (*NARROW, np.ones((2, 8, 1)), np.ones((2, 1, 16)))),
    Sample("scaled unlike", scaled, (*NARROW, np.ones((2, 8, 4)), np.ones((2, 2, 16)))),
]

REDUCE = [
    *(
        Sample(f"{name} {axes}", lambda x, f=fun, a=axes: f(x, axis=a), (floats(8, 4, 8),))
        for name, fun in {"sum": jnp.sum, "max": jnp.max, "min": jnp.min, "prod": jnp.prod}.items()
        for axes in ((0,), (1, 2), (0, 1, 2))
    ),
    Sample("any, all", lambda x: (jnp.any(x, 0), jnp.all(x, 1)), (bools(8, 16),)),
    Sample("bitwise", lambda x: (lax.reduce_or(x, (0,)), lax.reduce_and(x, (1,))), (ints(64, 8, 16),)),
    Sample("xor", lambda x: lax.reduce_xor(x, (0,)), (ints(64, 8, 16),)),
    Sample("argmax, argmin", lambda x: (jnp.argmax(x, 1), jnp.argmin(x, 0)), (X,)),
    Sample("general", lambda x: lax.reduce(x, np.float32(0), lambda a, b: a + b + a * b, (1,)), (X,)),
    Sample("cumsum", lambda x: (jnp.cumsum(x, 0), lax.cumsum(x, 1, reverse=True)), (X,)),
    Sample("other scans", lambda x: (lax.cummax(x, 0), lax.cummin(x, 1), lax.cumprod(x, 1)), (X,)),
    Sample("cumlogsumexp", lambda x: lax.cumlogsumexp(x, 0), (X,)),
    Sample("associative scan", lambda x: lax.associative_scan(jnp.add, x), (X,)),
    Sample("sort", lambda x: (jnp.sort(x, 0), jnp.argsort(x, 1)), (X,)),
    Sample("sort of many", lambda x, y: lax.sort((x, y, -x), dimension=0, num_keys=2), (X, X + 1)),
    Sample("top_k", lambda x: lax.top_k(x, 3), (X,)),
    Sample("top_k gradient", grad(lambda x: lax.top_k(x, 3)[0]), (X,)),
    Sample("approx_top_k", lambda x: lax.approx_max_k(x, 4), (X,)),
    Sample("scan of pairs", jax.vmap(lambda a, b: lax.associative_scan(recur, (a, b))), (X, X)),
    Sample("logsumexp", grad(jax.nn.logsumexp), (X,)),
    Sample("softmax", grad(jax.nn.softmax), (X,)),
    Sample("layer norm", grad(lambda x: (x - x.mean(-1, keepdims=True)) * lax.rsqrt(x.var(-1)[:, None])), (X,)),
]

RESHAPES = {
    "same": ((8, 16), (8, 16)),
    "merge": ((8, 16), (128,)),
    "split": ((128,), (8, 16)),
    "merge heads": ((4, 8, 4, 8), (4, 8, 32)),
    "split heads": ((4, 8, 32), (4, 8, 4, 8)),
    "merge in front": ((4, 8, 8), (32, 8)),
    "three to two": ((4, 4, 8), (8, 16)),
    "two to three": ((8, 16), (4, 4, 8)),
    "no common": ((3, 8), (8, 3)),
    "part common": ((24, 4), (16, 6)),
    "no common, then common": ((3, 8, 8), (8, 3, 8)),
    "ones": ((8, 1, 16), (1, 8, 16, 1)),
    "ones only": ((1, 1), (1,)),
    "to a scalar": ((1,), ()),
    "empty": ((0, 8), (8, 0)),
    "all to one": ((2, 4, 8), (64,)),
}

SHAPE = [
    *(
        Sample(f"reshape {name}", lambda x, s=after: lax.reshape(x, s), (floats(*before),))
        for name, (before, after) in RESHAPES.items()
    ),
    Sample("reshape, permuted", lambda x: lax.reshape(x, (128,), (1, 0)), (X,)),
    Sample("transpose", lambda x: jnp.transpose(x, (2, 0, 1)), (floats(8, 4, 16),)),
    Sample("broadcast", lambda x: lax.broadcast_in_dim(x, (4, 8, 16), (1, 2)), (X,)),
    Sample("broadcast of ones", lambda x: lax.broadcast_in_dim(x, (8, 16), (0, 1)), (floats(8, 1),)),
    Sample("broadcast of a scalar", lambda x: lax.broadcast_in_dim(x, (8, 16), ()), (np.float32(2),)),
    Sample("squeeze, expand", lambda x: lax.expand_dims(lax.squeeze(x, (1,)), (0,)), (floats(8, 1, 16),)),
    Sample("iota", lambda: lax.broadcasted_iota(jnp.int32, (8, 16), 1), ()),
    Sample("rev", lambda x: lax.rev(x, (1,)), (X,)),
    Sample("pad", lambda x: lax.pad(x, np.float32(0), ((1, 2, 0), (0, 0, 0))), (X,)),
    Sample("pad that shifts", lambda x: lax.pad(x, np.float32(1), ((1, -1, 0), (0, 0, 0))), (X,)),
    Sample("pad inside", lambda x: lax.pad(x, np.float32(1), ((0, 0, 1), (0, 0, 0))), (X,)),
    Sample("concatenate", lambda x, y: lax.concatenate((x, y), 0), (X, floats(4, 16))),
    Sample("concatenate empty", lambda x, y: lax.concatenate((x, y), 1), (X, floats(8, 0))),
    Sample("stack", lambda x, y: jnp.stack((x, y), 1), (X, X)),
    Sample("unstack", lambda x: jnp.unstack(x, axis=1), (floats(8, 2, 4),)),
    Sample("split in two", lambda x: jnp.split(x, (4,), 1), (X,)),
    Sample("tile", lambda x: jnp.tile(x, (4, 1)), (X,)),
    Sample("repeat", lambda x: jnp.repeat(x, 4, axis=0), (X,)),
    Sample("rotary", lambda x: jnp.concatenate((-x[..., 8:], x[..., :8]), -1) * jnp.sin(x), (X,)),
    Sample("one_hot", lambda t: jax.nn.one_hot(t, 16), (ints(16, 8),)),
]

SLICING = [
    Sample("slice", lambda x: lax.slice(x, (0, 4), (8, 12)), (X,)),
    Sample("strided slice", lambda x: lax.slice(x, (0, 0), (8, 16), (1, 2)), (X,)),
    Sample("dynamic slice", lambda x, i: lax.dynamic_slice(x, (i, 0), (4, 16)), (X, np.int32(3))),
    Sample("dynamic index", lambda x, i: lax.dynamic_index_in_dim(x, i), (X, np.int32(3))),
    Sample(
        "dynamic update",
        lambda x, u, i: lax.dynamic_update_slice(x, u, (i, 0)),
        (X, floats(4, 16), np.int32(2)),
    ),
    Sample("cache update", lambda x, u, i: lax.dynamic_update_slice(x, u, (0, i)), (X, floats(8, 1), np.int32(5))),
    Sample("slice gradient", grad(lambda x: x[2:6]), (X,)),
]

TABLE, TOKENS = floats(16, 8), ints(16, 4, 8)
GATHER = [
    Sample("embedding", lambda t, i: t[i], (TABLE, TOKENS)),
    Sample("embedding gradient", grad(lambda t, i: t[i]), (TABLE, TOKENS)),
    Sample("embedding by a row", lambda t, i: t[i], (TABLE, np.int32(3))),
    Sample("columns", lambda t, i: t[:, i], (TABLE, ints(8, 4))),
    Sample("two indices", lambda t, i, j: t[i, j], (TABLE, ints(16, 8), ints(8, 8))),
    Sample("take_along_axis", lambda x, i: jnp.take_along_axis(x, i, 1), (X, ints(16, 8, 4))),
    Sample("cross entropy", grad(lambda x, i: jnp.take_along_axis(jax.nn.log_softmax(x), i, 1)), (X, ints(16, 8, 1))),
    Sample(
        "windows",
        lambda x, i: lax.gather(x, i, GRID((1, 2), (), (0,)), (2, 8), mode="clip"),
        (TABLE, ints(14, 4, 1)),
    ),
    Sample("vmap of a lookup", jax.vmap(lambda t, i: t[i]), (floats(4, 16, 8), ints(16, 4, 8))),
    Sample("vmap of a gradient", jax.vmap(grad(lambda t, i: t[i])), (floats(4, 16, 8), ints(16, 4, 8))),
    Sample("vmap over tables", jax.vmap(lambda t, i: t[i], (0, None)), (floats(4, 16, 8), ints(16, 8))),
    *(
        Sample(f"mode {mode}", lambda t, i, m=mode: t.at[i].get(mode=m), (TABLE, ints(19, 4, 8)))
        for mode in ("fill", "clip", "promise_in_bounds")
    ),
    *(
        Sample(f"put mode {mode}", lambda t, i, u, m=mode: t.at[i].add(u, mode=m), (TABLE, ints(19, 4), floats(4, 8)))
        for mode in ("drop", "clip", "promise_in_bounds")
    ),
    Sample("segment sum", lambda x, i: jax.ops.segment_sum(x, i, 4), (TABLE, ints(4, 16))),
    Sample(
        "scatter gradient",
        grad(lambda u, t, i: t.at[i].mul(u, unique_indices=True)),
        (floats(4, 8), TABLE, np.arange(4)),
    ),
    Sample(
        "batched put", jax.vmap(lambda t, i, u: t.at[i].set(u)), (floats(4, 16, 8), ints(16, 4, 2), floats(4, 2, 8))
    ),
    Sample("at set", lambda t, i, u: t.at[i].set(u), (TABLE, ints(16, 4), floats(4, 8))),
    Sample("at add", lambda t, i, u: t.at[i].add(u), (TABLE, ints(16, 4), floats(4, 8))),
    Sample("at add columns", lambda t, i, u: t.at[:, i].add(u), (TABLE, ints(8, 4), floats(16, 4))),
    Sample("at mul", lambda t, i, u: t.at[i].mul(u), (TABLE, ints(16, 4), floats(4, 8))),
    Sample("at max", lambda t, i, u: t.at[i].max(u), (TABLE, ints(16, 4), floats(4, 8))),
    Sample("at min", lambda t, i, u: t.at[i].min(u), (TABLE, ints(16, 4), floats(4, 8))),
    Sample(
        "scatter windows",
        lambda x, i, u: lax.scatter_add(x, i, u, PUT((1, 2), (), (0,))),
        (TABLE, ints(14, 4, 1), floats(4, 2, 8)),
    ),
]

CONV = [
    Sample("conv", conv(), (IMAGE, KERNEL)),
    Sample("conv gradients", grad(conv(), (0, 1)), (floats(4, 4, 4, 4), KERNEL)),
    Sample("strided conv", conv(2), (IMAGE, KERNEL)),
    Sample("1×1 conv", conv(), (IMAGE, floats(1, 1, 4, 8))),
    Sample("patches", conv(2, "VALID"), (IMAGE, floats(2, 2, 4, 8))),
    Sample("patches of all", conv(8, "VALID"), (IMAGE, floats(8, 8, 4, 8))),
    Sample("grouped conv", conv(feature_group_count=4), (floats(4, 4, 4, 16), floats(3, 3, 4, 8))),
    Sample("pointwise groups", conv(feature_group_count=4), (floats(4, 4, 4, 16), floats(1, 1, 4, 8))),
    Sample("depthwise conv", conv(feature_group_count=8), (floats(4, 4, 4, 8), floats(3, 3, 1, 16))),
    Sample("batch groups", conv(batch_group_count=4), (floats(8, 4, 4, 4), floats(3, 3, 4, 8))),
    Sample("dilated conv", conv(rhs_dilation=(2, 2)), (IMAGE, KERNEL)),
    Sample("NCHW", conv(numbers=("NCHW", "OIHW", "NCHW")), (floats(4, 8, 4, 4), floats(16, 8, 3, 3))),
    Sample("1-D conv", conv(numbers=("NCH", "OIH", "NCH")), (floats(4, 8, 16), floats(8, 8, 3))),
    Sample("3-D conv", conv(2, "VALID", ("NCDHW", "OIDHW", "NCDHW")), (floats(2, 4, 4, 4, 4), floats(4, 4, 2, 2, 2))),
    Sample("transposed conv", lambda x, k: lax.conv_transpose(x, k, (2, 2), "SAME"), (floats(4, 4, 4, 4), KERNEL)),
    Sample("grouped gradients", grad(conv(feature_group_count=4), (0, 1)), (floats(4, 4, 4, 8), floats(3, 3, 2, 8))),
    Sample("sum pool gradient", grad(pool(0.0, lax.add, 2, 2)), (floats(4, 4, 4, 4),)),
    Sample("max pool", pool(-np.inf, lax.max, 2, 2), (IMAGE,)),
    Sample("min pool", pool(np.inf, lax.min, 2, 2), (IMAGE,)),
    Sample("sum pool", pool(0.0, lax.add, 2, 2), (IMAGE,)),
    Sample("pool by any computation", pool(0.0, lambda a, b: a + b + a * b, 2, 2), (IMAGE,)),
    Sample("overlapping pool", pool(-np.inf, lax.max, 3, 1, "SAME"), (IMAGE,)),
    Sample("pool of all", pool(-np.inf, lax.max, 8, 8), (IMAGE,)),
    Sample("max pool gradient", grad(pool(-np.inf, lax.max, 2, 2)), (floats(4, 4, 4, 4),)),
]

RANDOM = [
    Sample("bits", lambda k: jax.random.bits(k, (8, 16)), (key(),)),
    Sample("bits of many keys", jax.vmap(lambda k: jax.random.bits(k, (8,))), (key(8),)),
    Sample("split keys", jax.vmap(lambda k: jax.random.split(k, 4)), (key(8),)),
    Sample("fold in", jax.vmap(jax.random.fold_in), (key(8), ints(9, 8))),
    Sample("seeds", jax.vmap(jax.random.key), (ints(99, 8),)),
    Sample("words", lambda k: jax.random.wrap_key_data(jax.random.key_data(k)), (key(8),)),
    Sample("dropout", lambda k, x: jnp.where(jax.random.bernoulli(k, 0.5, x.shape), x, 0), (key(), X)),
    Sample("normal", lambda k: jax.random.normal(k, (8, 8)), (key(),)),
    Sample("categorical", lambda k, x: jax.random.categorical(k, x), (key(), X)),
    Sample("gamma", lambda k, a: jax.random.gamma(k, a), (key(), floats(8, 4))),
    Sample("rng_bit_generator", lambda k: lax.rng_bit_generator(k, (8,)), (np.ones(4, np.uint32),)),
]

LINALG = [
    Sample("cholesky", lax.linalg.cholesky, (spd(8, 4, 4),)),
    Sample(
        "triangular left",
        lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True),
        (spd(4, 4, 4), floats(4, 4, 8)),
    ),
    Sample("triangular right", lambda a, b: lax.linalg.triangular_solve(a, b), (spd(4, 4, 4), floats(4, 8, 4))),
    Sample("lu", lax.linalg.lu, (spd(8, 4, 4),)),
    Sample("qr", jnp.linalg.qr, (floats(8, 8, 4),)),
    Sample("eigh", jnp.linalg.eigh, (spd(8, 4, 4),)),
    Sample("svd", jnp.linalg.svd, (floats(8, 4, 4),)),
    Sample("singular values", lambda x: jnp.linalg.svd(x, compute_uv=False), (floats(8, 4, 4),)),
    Sample("tridiagonal_solve", lax.linalg.tridiagonal_solve, (*[spd(8, 4, 4)[:, 0]] * 3, floats(8, 4, 2))),
    Sample("eig", lambda x: jnp.linalg.eigvals(x), (floats(8, 4, 4),)),
    Sample("schur", lax.linalg.schur, (floats(8, 4, 4),)),
    Sample("hessenberg", lax.linalg.hessenberg, (floats(8, 4, 4),)),
    Sample("tridiagonal", lax.linalg.tridiagonal, (spd(8, 4, 4),)),
    Sample(
        "pivots", lambda p: lax.linalg.lu_pivots_to_permutation(p, 4), (np.tile(np.arange(4, dtype=np.int32), (8, 1)),)
    ),
    Sample("reflectors", lax.linalg.householder_product, (floats(8, 4, 4), floats(8, 4))),
    Sample("reflect", lax.linalg.ormqr, (floats(8, 4, 4), floats(8, 4), floats(8, 4, 4))),
    Sample("symmetric product", lambda x, c: lax.linalg.symmetric_product(x, c), (floats(8, 4, 2), spd(8, 4, 4))),
    Sample("update of a factor", lax.linalg.cholesky_update, (spd(4, 4), floats(4))),
    Sample("determinant", lambda a: jnp.linalg.det(a), (spd(8, 4, 4),)),
    Sample("fft", jnp.fft.fft, (X.astype(np.complex64),)),
    Sample("rfft, irfft", lambda x: jnp.fft.irfft(jnp.fft.rfft(x)), (X,)),
    Sample("fft2", jnp.fft.fft2, (floats(8, 4, 8).astype(np.complex64),)),
]

SAMPLES: tuple[Sample, ...] = (
    *(*ELEMENTWISE, *DOT, *REDUCE, *SHAPE, *SLICING),
    *(*GATHER, *CONV, *RANDOM, *LINALG),
)
