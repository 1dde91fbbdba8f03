"""What a random program may do next, in the families that every model has.

A **move** chooses operands and parameters among the values so far and returns a step, or None where no value suits it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from planner.sketch import SIZES, Sketch, Step

LAYERS = 2

UNARY = {
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "half": lambda x: x * 0.5 + 0.25,
    "logistic": lax.logistic,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
}
BINARY = {"add": jnp.add, "sub": jnp.subtract, "mul": jnp.multiply, "maximum": jnp.maximum}
REDUCE = {"sum": jnp.sum, "max": jnp.max, "mean": jnp.mean}


def unary(s: Sketch) -> Step | None:
    """An elementwise function."""
    name = s.choose(list(UNARY))
    return Step(name, (s.value(0) or 0,), UNARY[name])


def binary(s: Sketch) -> Step | None:
    """An elementwise function of two values of one shape."""
    name, a = s.choose(list(BINARY)), s.value(0) or 0
    alike = [i for i, aval in enumerate(s.avals) if aval == s.avals[a]]
    return Step(name, (a, s.choose(alike)), BINARY[name])


def reduction(s: Sketch) -> Step | None:
    """A sum, a maximum or a mean over one dim, kept or not."""
    if (a := s.value()) is None:
        return None
    name, axis, keep = s.choose(list(REDUCE)), s.dim(a), s.choose((False, True))
    return Step(f"{name}[{axis=}, {keep=}]", (a,), lambda x: REDUCE[name](x, axis=axis, keepdims=keep))


def softmax(s: Sketch) -> Step | None:
    """A softmax over one dim."""
    if (a := s.value()) is None:
        return None
    axis = s.dim(a)
    return Step(f"softmax[{axis=}]", (a,), lambda x: jax.nn.softmax(x, axis=axis))


def matmul(s: Sketch) -> Step | None:
    """One dim times a new weight."""
    if (a := s.value()) is None:
        return None
    axis, width = s.dim(a), s.choose(SIZES)
    fan_in = s.shape(a)[axis]
    w = s.weight(fan_in, width, scale=fan_in**-0.5)
    return Step(f"matmul[{axis=}]", (a, w), lambda x, w: jnp.tensordot(x, w, ((axis,), (0,))))


def einsum(s: Sketch) -> Step | None:
    """Two values, of which some dims of equal size are one: summed, or in the result where it is large enough."""
    a, b = s.value(1, 3), s.value(1, 3)
    if a is None or b is None:
        return None
    left, right, summed = "abc"[: len(s.shape(a))], "", ""
    for letter, size in zip("def", s.shape(b)):
        same = [x for x, n in zip(left, s.shape(a)) if n == size and x not in right]
        right += s.choose([*same, letter])
    for letter in right:
        summed += letter if letter in left and s.choose((True, False)) else ""
    out = "".join(dict.fromkeys(x for x in left + right if x not in summed))
    if len(out) > 4:
        return None
    scale = float(np.prod([n for x, n in zip(left, s.shape(a)) if x in summed])) ** -0.5
    text = f"{left},{right}->{out}"
    return Step(f"einsum[{text}]", (a, b), lambda x, y: jnp.einsum(text, x, y) * scale)


def transpose(s: Sketch) -> Step | None:
    """Two dims swapped."""
    if (a := s.value(2)) is None:
        return None
    i, j = s.dim(a), s.dim(a)
    return Step(f"swapaxes[{i}, {j}]", (a,), lambda x: jnp.swapaxes(x, i, j))


def reshape(s: Sketch) -> Step | None:
    """One dim split in two, or two neighbours merged."""
    if (a := s.value()) is None:
        return None
    shape, i = s.shape(a), s.dim(a)
    splits = [(*shape[:i], n, shape[i] // n, *shape[i + 1 :]) for n in (4, 2) if shape[i] % n == 0]
    merges = [(*shape[:i], shape[i] * shape[i + 1], *shape[i + 2 :])] if i + 1 < len(shape) else []
    options = merges + splits
    if not options:
        return None
    to = s.choose(options)
    return Step(f"reshape[{to}]", (a,), lambda x: x.reshape(to))


def broadcast(s: Sketch) -> Step | None:
    """A new dim."""
    if (a := s.value(0, 3)) is None:
        return None
    shape, i, size = s.shape(a), s.choose(range(len(s.shape(a)) + 1)), s.choose(SIZES)
    to = (*shape[:i], size, *shape[i:])
    return Step(f"broadcast[{to}, new={i}]", (a,), lambda x: jnp.broadcast_to(jnp.expand_dims(x, i), to))


def concatenate(s: Sketch) -> Step | None:
    """Two values of one shape, one after the other."""
    if (a := s.value()) is None:
        return None
    axis, b = s.dim(a), s.choose([i for i, aval in enumerate(s.avals) if aval == s.avals[a]])
    return Step(f"concatenate[{axis=}]", (a, b), lambda x, y: jnp.concatenate([x, y], axis))


def window(s: Sketch) -> Step | None:
    """Half of a dim: its middle, or every other row."""
    if (a := s.value()) is None:
        return None
    axis = s.dim(a)
    size = s.shape(a)[axis]
    if size < 4:
        return None
    start, stop, stride = s.choose(((0, size // 2, 1), (size // 4, 3 * size // 4, 1), (0, size, 2)))
    text = f"slice[{start}:{stop}:{stride}, {axis=}]"
    return Step(text, (a,), lambda x: lax.slice_in_dim(x, start, stop, stride, axis))


def gather(s: Sketch) -> Step | None:
    """Rows of a dim at the places that a new argument names."""
    if (a := s.value(1, 3)) is None:
        return None
    axis = s.dim(a)
    rows = s.integers(s.shape(a)[axis], s.choose(SIZES))
    return Step(f"take[{axis=}]", (a, rows), lambda x, i: jnp.take(x, i, axis=axis))


def scan(s: Sketch) -> Step | None:
    """Layers with weights of their own, rematerialised or not; one shape all through."""
    if (a := s.value()) is None:
        return None
    width, remat, name = s.shape(a)[-1], s.choose((False, True)), s.choose(list(UNARY))
    w = s.weight(LAYERS, width, width, scale=width**-0.5)

    def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
        return x + UNARY[name](x @ w), None

    body = jax.checkpoint(layer, prevent_cse=False) if remat else layer
    return Step(f"scan[{name}, {remat=}]", (a, w), lambda x, w: lax.scan(body, x, w)[0])


def stacked_scan(s: Sketch) -> Step | None:
    """A scan over a value's leading dim, which returns what every trip saw."""
    if (a := s.value(2)) is None:
        return None

    def row(total: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return 0.5 * total + x, jnp.tanh(total)

    return Step("stacked scan", (a,), lambda x: lax.scan(row, jnp.zeros(x.shape[1:], x.dtype), x)[1])


def checkpoint(s: Sketch) -> Step | None:
    """Two matmuls that are computed again for the gradient."""
    if (a := s.value()) is None:
        return None
    width = s.shape(a)[-1]
    w = s.weight(width, width, scale=width**-0.5)
    return Step("checkpoint", (a, w), jax.checkpoint(lambda x, w: jnp.tanh(jnp.sin(x @ w) @ w)))


def cond(s: Sketch) -> Step | None:
    """One of two branches, by a new integer argument."""
    if (a := s.value()) is None:
        return None
    width, name = s.shape(a)[-1], s.choose(list(UNARY))
    flag, w = s.integers(2), s.weight(width, width, scale=width**-0.5)
    return Step(
        f"cond[{name}]",
        (flag, a, w),
        lambda flag, x, w: lax.cond(flag > 0, lambda x: x @ w, lambda x: UNARY[name](x), x),
    )


ALL = (
    *(unary, matmul, binary, reduction, softmax, einsum, transpose, reshape, broadcast, concatenate, window),
    *(gather, scan, stacked_scan, checkpoint, cond),
)
