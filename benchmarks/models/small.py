"""One small model of every other kind: what it takes to serve it, to train it, and to run it on a CPU.

A model is three pure functions and a batch. Where transformers of `benchmarks.models` are measured at their real sizes,
these are here because they are built otherwise: experts, convolutions, patches, two stacks, a linear recurrence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.models.workloads import Workload

Tree = Any


@dataclass(frozen=True)
class Small:
    """A model at one size.

    Attributes:
        init: Parameters from a key.
        forward: `forward(params, *inputs)`.
        loss: `loss(params, *inputs, targets)`, a scalar.
        inputs: Shapes of the inputs.
        targets: Shape of the targets.
        classes: Integers of inputs and targets are below this.
    """

    init: Callable[[Array], Tree]
    forward: Callable[..., Array]
    loss: Callable[..., Array]
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    targets: jax.ShapeDtypeStruct
    classes: int = 8

    def serve(self) -> Workload:
        """`fun(params, *inputs)`."""
        return self.forward, (self.abstract(), *self.inputs)

    def train(self) -> Workload:
        """One AdamW step: `fun(params, opt_state, *inputs, targets) -> (params, opt_state, loss)`."""
        import optax  # Only training wants it.

        optimiser = optax.adamw(1e-3)

        def train_step(params: Tree, opt_state: Tree, *batch: Array) -> tuple[Tree, Tree, Array]:
            loss, grads = jax.value_and_grad(self.loss)(params, *batch)
            updates, opt_state = optimiser.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        params = self.abstract()
        return train_step, (params, jax.eval_shape(optimiser.init, params), *self.inputs, self.targets)

    def abstract(self) -> Tree:
        """Shapes of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    def batch(self, key: Array) -> Iterator[Array]:
        """Random inputs and targets."""
        for part in (*self.inputs, self.targets):
            key, mine = jax.random.split(key)
            if jnp.issubdtype(part.dtype, jnp.integer):
                yield jax.random.randint(mine, part.shape, 0, self.classes, part.dtype)
            else:
                yield jax.random.normal(mine, part.shape, part.dtype)


class Draw:
    """Random weights, each from a key of its own."""

    def __init__(self, key: Array):
        self.key = key

    def __call__(self, *shape: int, fan_in: int) -> Array:
        """Normal weights, each output the sum of `fan_in` inputs."""
        self.key, mine = jax.random.split(self.key)
        return jax.random.normal(mine, shape, jnp.float32) * fan_in**-0.5


def norm(x: Array, scale: Array | float = 1.0) -> Array:
    """RMS norm over the last dim."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def cross_entropy(logits: Array, targets: Array) -> Array:
    """Mean negative log-likelihood of integer targets."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1))


def attention(w: dict[str, Array], x: Array, memory: Array | None = None, causal: bool = False) -> Array:
    """Multi-head attention of [B, L, E] to itself or to `memory` [B, M, E], with weights [E, H, D] and [H, D, E]."""
    seen = x if memory is None else memory
    q, k, v = (jnp.einsum("ble,ehd->blhd", y, w[name]) for name, y in (("q", x), ("k", seen), ("v", seen)))
    scores = jnp.einsum("blhd,bmhd->bhlm", q, k) * q.shape[-1] ** -0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -1e9)
    return jnp.einsum("bhlm,bmhd,hde->ble", jax.nn.softmax(scores), v, w["o"])


def attention_weights(draw: Draw, layers: int, width: int, heads: int) -> dict[str, Array]:
    """Weights of `layers` attentions, stacked."""
    each = {name: draw(layers, width, heads, width // heads, fan_in=width) for name in "qkv"}
    return {**each, "o": draw(layers, heads, width // heads, width, fan_in=width)}


def mlp_weights(draw: Draw, layers: int, width: int, hidden: int) -> dict[str, Array]:
    """Weights of `layers` MLPs, stacked."""
    return {
        "up": draw(layers, width, hidden, fan_in=width),
        "down": draw(layers, hidden, width, fan_in=hidden),
    }


def mlp(w: dict[str, Array], x: Array) -> Array:
    """GELU between two matmuls."""
    return jax.nn.gelu(x @ w["up"]) @ w["down"]
