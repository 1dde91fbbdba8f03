"""An encoder-decoder transformer: what is written looks at itself and at all that was read. Raffel et al. 2019, T5."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.models.small import (
    Draw,
    Small,
    Tree,
    attention,
    attention_weights,
    cross_entropy,
    mlp,
    mlp_weights,
    norm,
)


def init(key: Array, layers: int, width: int, heads: int, vocab: int) -> Tree:
    """One table for both sides, two stacks of layers."""
    draw = Draw(key)

    def stack(*attentions: str) -> Tree:
        each = {name: attention_weights(draw, layers, width, heads) for name in attentions}
        return {**each, "mlp": mlp_weights(draw, layers, width, 4 * width)}

    return {
        "table": draw(vocab, width, fan_in=1),
        "encoder": stack("self"),
        "decoder": stack("self", "cross"),
        "out": draw(width, vocab, fan_in=width),
    }


def forward(params: Tree, read: Array, written: Array) -> Array:
    """Scores of the next token at each place of `written` [B, M], after `read` [B, L]."""

    def encode(x: Array, w: Tree) -> tuple[Array, None]:
        x = x + attention(w["self"], norm(x))
        return x + mlp(w["mlp"], norm(x)), None

    memory, _ = lax.scan(jax.checkpoint(encode), params["table"][read], params["encoder"])

    def decode(x: Array, w: Tree) -> tuple[Array, None]:
        x = x + attention(w["self"], norm(x), causal=True)
        x = x + attention(w["cross"], norm(x), norm(memory))
        return x + mlp(w["mlp"], norm(x)), None

    x, _ = lax.scan(jax.checkpoint(decode), params["table"][written], params["decoder"])
    return norm(x) @ params["out"]


def loss(params: Tree, read: Array, written: Array, targets: Array) -> Array:
    """Cross-entropy."""
    return cross_entropy(forward(params, read, written), targets)


def model(batch: int, length: int, layers: int, width: int, heads: int, vocab: int) -> Small:
    """The model of one size."""
    tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    begin = partial(init, layers=layers, width=width, heads=heads, vocab=vocab)
    return Small(begin, forward, loss, (tokens, tokens), tokens, vocab)


def tiny() -> Small:
    """8 devices can split every dim."""
    return model(8, 8, 2, 16, 8, 16)


def base() -> Small:
    """About the size of T5-Large."""
    return model(128, 512, 24, 1024, 16, 32768)
