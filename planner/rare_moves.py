"""Moves of the other families: convolutions, scatters, sorts, linear algebra, loops, derivatives of one's own."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from planner.moves import UNARY
from planner.sketch import SIZES, Sketch, Step


def convolution(s: Sketch) -> Step | None:
    """A convolution over the first inner dim, [B, L, C], with a stride or in groups."""
    a = _of_rank(s, 3)
    if a is None:
        return None
    features, width = s.shape(a)[2], s.choose((3, 1, 2))
    groups, stride = s.choose((1, 2)), s.choose((1, width))
    out = s.choose(SIZES)
    kernel = s.weight(width, features // groups, out, scale=(width * features / groups) ** -0.5)

    def fun(x: jax.Array, k: jax.Array) -> jax.Array:
        numbers = ("NHC", "HIO", "NHC")
        padding = "SAME" if stride == 1 else "VALID"
        return lax.conv_general_dilated(x, k, (stride,), padding, dimension_numbers=numbers, feature_group_count=groups)

    return Step(f"conv[{width=}, {groups=}, {stride=}]", (a, kernel), fun)


def pool(s: Sketch) -> Step | None:
    """The maximum or the mean of each pair of neighbours."""
    if (a := s.value()) is None:
        return None
    axis, name = s.dim(a), s.choose(("max", "mean"))
    if s.shape(a)[axis] % 2:
        return None
    window = [2 if d == axis else 1 for d in range(len(s.shape(a)))]
    if name == "max":
        return Step(
            f"max pool[{axis=}]", (a,), lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, window, "VALID")
        )
    return Step(f"mean pool[{axis=}]", (a,), lambda x: lax.reduce_window(x, 0.0, lax.add, window, window, "VALID") / 2)


def scatter(s: Sketch) -> Step | None:
    """New rows put or added at the places that a new argument names."""
    if (a := s.value(1, 3)) is None:
        return None
    axis, name = s.dim(a), s.choose(("add", "set", "max"))
    shape, count = s.shape(a), s.choose((4, 8))
    if name == "set" and count > shape[axis]:
        return None
    rows = (
        s.integers(shape[axis], count) if name != "set" else s.argument(np.arange(count, dtype=np.int32)[::-1].copy())
    )
    new = s.weight(*(count if d == axis else n for d, n in enumerate(shape)))

    def fun(x: jax.Array, i: jax.Array, u: jax.Array) -> jax.Array:
        at = jnp.asarray(x).at[(slice(None),) * axis + (i,)]
        return getattr(at, name)(u)

    return Step(f"scatter {name}[{axis=}]", (a, rows, new), fun)


def update(s: Sketch) -> Step | None:
    """A slice read or written where a new argument says, as in a cache; inside of the dim.

    Beyond it jaxlib 0.10.2 itself is wrong: `dynamic_slice(arange(8), (5,), (4,))` ends with 7, but not if its result
    is split over devices.
    """
    if (a := s.value()) is None:
        return None
    axis, shape = s.dim(a), s.shape(a)
    size = s.choose((1, shape[axis] // 2))
    place = s.integers(shape[axis] - size + 1)
    if s.choose((True, False)):
        new = s.weight(*(size if d == axis else n for d, n in enumerate(shape)))
        return Step(
            f"update[{axis=}, {size=}]", (a, new, place), lambda x, u, i: lax.dynamic_update_slice_in_dim(x, u, i, axis)
        )
    return Step(f"dynamic slice[{axis=}, {size=}]", (a, place), lambda x, i: lax.dynamic_slice_in_dim(x, i, size, axis))


def scanned(s: Sketch) -> Step | None:
    """A cumulative operation along one dim, or a linear recurrence by an associative scan."""
    if (a := s.value()) is None:
        return None
    axis, name = s.dim(a), s.choose(("mean so far", "cummax", "recurrence"))

    def mean(x: jax.Array) -> jax.Array:
        return jnp.cumsum(x, axis) / x.shape[axis]

    def recurrence(x: jax.Array) -> jax.Array:
        return lax.associative_scan(
            lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (jax.nn.sigmoid(x), x * 0.5), axis=axis
        )[1]

    fun = {"mean so far": mean, "cummax": lambda x: lax.cummax(x, axis), "recurrence": recurrence}[name]
    return Step(f"{name}[{axis=}]", (a,), fun)


def ordered(s: Sketch) -> Step | None:
    """A sort, the largest, or a permutation by the order of the values, along the last dim."""
    if (a := s.value()) is None:
        return None
    width = s.shape(a)[-1]
    name, k = s.choose(("sort", "top_k", "argsort")), s.choose((4, min(8, width)))
    fun = {
        "sort": lambda x: lax.sort((x, -x), num_keys=1)[1],
        "top_k": lambda x: lax.top_k(x, min(k, width))[0],
        "argsort": lambda x: jnp.take_along_axis(x, jnp.argsort(x, -1), -1),
    }[name]
    return Step(name, (a,), fun)


def framed(s: Sketch) -> Step | None:
    """A dim padded, turned round, or shifted by one."""
    if (a := s.value()) is None:
        return None
    axis, name = s.dim(a), s.choose(("pad", "rev", "roll"))
    widths = [(4, 0) if d == axis else (0, 0) for d in range(len(s.shape(a)))]
    fun = {
        "pad": lambda x: jnp.pad(x, widths),
        "rev": lambda x: jnp.flip(x, axis),
        "roll": lambda x: jnp.roll(x, 1, axis),
    }[name]
    return Step(f"{name}[{axis=}]", (a,), fun)


def chosen(s: Sketch) -> Step | None:
    """Values where a condition holds, others elsewhere: by sign, by position, or by a fixed draw."""
    if (a := s.value()) is None:
        return None
    name = s.choose(("clip", "causal", "dropout"))

    def causal(x: jax.Array) -> jax.Array:
        return jnp.where(lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1) < 4, x, 0.5 * x)

    def dropout(x: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0.0)

    fun = {"clip": lambda x: jnp.clip(x, -0.7, 0.7), "causal": causal, "dropout": dropout}[name]
    return Step(name, (a,), fun)


def algebra(s: Sketch) -> Step | None:
    """Batched linear algebra on x·xᵀ + 4. No Fourier transform: jaxlib 0.10.2 on CPU fails on some."""
    if (a := s.value(2, 3)) is None:
        return None
    name = s.choose(("cholesky", "solve"))

    def positive(x: jax.Array) -> jax.Array:
        return x @ jnp.swapaxes(x, -1, -2) / x.shape[-1] + 4 * jnp.eye(x.shape[-2])

    fun = {
        "cholesky": lambda x: jnp.linalg.cholesky(positive(x)),
        "solve": lambda x: jnp.linalg.solve(positive(x), x),
    }[name]
    return Step(name, (a,), fun)


def repeated(s: Sketch) -> Step | None:
    """A loop of a few trips: its condition says how many, or only running it does."""
    if (a := s.value()) is None:
        return None
    width, name, count = s.shape(a)[-1], s.choose(list(UNARY)), s.choose((True, False))
    w = s.weight(width, width, scale=width**-0.5)
    stop = s.argument(np.array(3, np.int32))

    def fun(x: jax.Array, w: jax.Array, stop: jax.Array) -> jax.Array:
        def body(c: tuple[Any, Any]) -> tuple[Any, Any]:
            return c[0] + 1, UNARY[name](c[1] @ w)

        end = 3 if count else stop
        x, w = lax.stop_gradient((x, w))  # a while loop has no gradient
        return lax.while_loop(lambda c: c[0] < end, body, (0, x))[1]

    return Step(f"while[{name}, counted={count}]", (a, w, stop), fun)


def switch(s: Sketch) -> Step | None:
    """One of three branches, by a new integer argument."""
    if (a := s.value()) is None:
        return None
    names, place = [s.choose(list(UNARY)) for _ in range(3)], s.integers(3)
    return Step(f"switch{names}", (place, a), lambda i, x: lax.switch(i, [UNARY[name] for name in names], x))


def own_derivative(s: Sketch) -> Step | None:
    """A function with a derivative rule of its own, under vmap over the first dim."""
    if (a := s.value(2)) is None:
        return None
    name = s.choose(("custom_vjp", "custom_jvp"))
    return Step(name, (a,), jax.vmap(backward if name == "custom_vjp" else forward))


@jax.custom_vjp
def backward(x: jax.Array) -> jax.Array:
    """A sine whose slope is said to be twice as large."""
    return jnp.sin(x)


backward.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (2 * g * jnp.cos(x),))


@jax.custom_jvp
def forward(x: jax.Array) -> jax.Array:
    """Likewise, forward."""
    return jnp.sin(x)


forward.defjvp(lambda x, t: (jnp.sin(x[0]), 2 * t[0] * jnp.cos(x[0])))


def _of_rank(s: Sketch, rank: int) -> int | None:
    return s.value(rank, rank)


ALL: tuple[Callable[[Sketch], Step | None], ...] = (
    *(convolution, pool, scatter, update, scanned, ordered, framed, chosen, algebra, repeated, switch, own_derivative),
)
