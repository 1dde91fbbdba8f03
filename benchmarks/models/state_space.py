"""A state-space model: a linear recurrence h ← a·h + b with gates from the input, by an associative scan.

Gu and Dao 2023 (Mamba), De et al. 2024 (Griffin's recurrent block): each feature has a state of its own, so that
features split freely, while the sequence is scanned.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.models.small import Draw, Small, Tree, cross_entropy, mlp, mlp_weights, norm


def init(key: Array, layers: int, width: int, vocab: int) -> Tree:
    """Stacked layers of a recurrence and an MLP, between two embeddings."""
    draw = Draw(key)
    gates = {name: draw(layers, width, 2 * width, fan_in=width) for name in ("input", "forget", "gate")}
    return {
        "table": draw(vocab, width, fan_in=1),
        "layers": {
            **gates,
            "back": draw(layers, 2 * width, width, fan_in=2 * width),
            "mlp": mlp_weights(draw, layers, width, 4 * width),
        },
        "out": draw(width, vocab, fan_in=width),
    }


def recurrence(w: Tree, x: Array) -> Array:
    """[B, L, E] to [B, L, E]; the state is [B, 2E]."""
    keep = jax.nn.sigmoid(x @ w["forget"])
    new = (1 - keep) * (x @ w["input"])
    _, states = lax.associative_scan(_then, (keep, new), axis=1)
    return (states * jax.nn.silu(x @ w["gate"])) @ w["back"]


def _then(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """One affine map of the state after the other."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def forward(params: Tree, tokens: Array) -> Array:
    """Scores of the vocabulary for each token."""

    def layer(x: Array, w: Tree) -> tuple[Array, None]:
        x = x + recurrence(w, norm(x))
        return x + mlp(w["mlp"], norm(x)), None

    x, _ = lax.scan(jax.checkpoint(layer), params["table"][tokens], params["layers"])
    return norm(x) @ params["out"]


def loss(params: Tree, tokens: Array, targets: Array) -> Array:
    """Cross-entropy."""
    return cross_entropy(forward(params, tokens), targets)


def model(batch: int, length: int, layers: int, width: int, vocab: int) -> Small:
    """The model of one size."""
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    return Small(partial(init, layers=layers, width=width, vocab=vocab), forward, loss, (tokens,), tokens, vocab)


def tiny() -> Small:
    """8 devices can split every dim."""
    return model(8, 16, 2, 16, 16)


def base() -> Small:
    """About 1.3 G parameters."""
    return model(128, 2048, 24, 2048, 32768)
