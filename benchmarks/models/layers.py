"""The parts of a block.

Activations are [B, L, E] in prefill and training and [B, E] in decode: `...` is L or nothing.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.nn import gelu

from benchmarks.models.config import Config

Layer = dict[str, Array]
Cache = dict[str, Array]

# Operand and result order of the two attention einsums: the large one, the scores, is never transposed.
_EINSUMS = {
    "multiquery": ("b...hd,btd->b...ht", "b...ht,btd->b...hd"),
    "grouped": ("b...kgd,btkd->bk...gt", "bk...gt,btkd->b...kgd"),
    "multihead": ("b...hd,bthd->bh...t", "bh...t,bthd->b...hd"),
}


@dataclass(frozen=True)
class Place:
    """Where the tokens of a pass stand: `...` is [L] in prefill, nothing in decode.

    Attributes:
        mask: 0 where a token sees position t and a large negative number where not, [..., T] float32.
        cos: Rotation of each token, [..., D] float32; None where positions are learned.
        sin: Likewise.
        index: Row of the cache that decode writes, an int32 scalar; None in prefill.
    """

    mask: Array
    cos: Array | None = None
    sin: Array | None = None
    index: Array | None = None


def norm(config: Config, x: Array, scale: Array) -> Array:
    """Layer norm without bias, or RMS norm, over the last dim; computed in float32."""
    y = x.astype(jnp.float32)
    if config.norm == "layernorm":
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6)
    return (y * scale.astype(jnp.float32)).astype(x.dtype)


def mlp(config: Config, layer: Layer, x: Array) -> Array:
    """SwiGLU (down · (silu(gate·x) * up·x)) or GELU (down · gelu(up·x)): [..., E] → [..., E]."""
    hidden = jnp.einsum("...e,ef->...f", x, layer["up"])
    if config.activation == "gelu":
        hidden = gelu(hidden)
    else:
        gate = jnp.einsum("...e,ef->...f", x, layer["gate"])
        hidden = gate * lax.logistic(gate) * hidden
    return jnp.einsum("...f,fe->...e", hidden, layer["down"])


def attention(config: Config, layer: Layer, x: Array, place: Place, cache: Cache | None) -> tuple[Array, Cache]:
    """Causal self-attention of one layer.

    Args:
        config: The model.
        layer: Its weights.
        x: Activations [B, ..., E].
        place: Positions and mask.
        cache: Keys and values [B, T, KV, D] ([B, T, D] if multiquery) to extend at `place.index` and look at;
            None to look at the keys and values of `x` itself.

    Returns:
        The summand [B, ..., E] for the residual stream, and the keys and values that were looked at.
    """
    project = "...e,ed->...d" if config.attention == "multiquery" else "...e,ekd->...kd"
    q = _rotate(place, jnp.einsum("...e,ehd->...hd", x, layer["wq"]))
    k = _rotate(place, jnp.einsum(project, x, layer["wk"]))
    v = jnp.einsum(project, x, layer["wv"])
    seen = {"k": k, "v": v} if cache is None else _write(place, cache, {"k": k, "v": v})
    mixed = _attend(config, q, seen, place.mask)
    return jnp.einsum("...hd,hde->...e", mixed, layer["wo"]), seen


def _attend(config: Config, q: Array, seen: Cache, mask: Array) -> Array:
    """Softmax-weighted values: q [B, ..., H, D] → [B, ..., H, D]."""
    shape, (to_scores, to_values) = q.shape, _EINSUMS[config.attention]
    if config.attention == "grouped":
        q = q.reshape(*shape[:-2], config.kv_heads, config.heads // config.kv_heads, config.d_head)
    if config.attention != "multihead":
        mask = mask[..., None, :]
    stored = jnp.float32 if config.float32_scores else q.dtype
    scores = jnp.einsum(to_scores, q, seen["k"], preferred_element_type=stored) / math.sqrt(config.d_head)
    shares = _softmax(scores + mask.astype(stored)).astype(q.dtype)
    return jnp.einsum(to_values, shares, seen["v"]).reshape(shape)


def _softmax(x: Array) -> Array:
    """Over the last dim, as plain operations: `jax.nn.softmax` is a custom_jvp."""
    powers = jnp.exp(x - lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True)))
    return powers / jnp.sum(powers, axis=-1, keepdims=True)


def _rotate(place: Place, x: Array) -> Array:
    """Turns [B, ..., D] or [B, ..., heads, D], where i and i + D/2 are a pair. Su et al. 2021."""
    if place.cos is None or place.sin is None:
        return x
    heads = x.ndim - 1 - place.cos.ndim
    cos, sin = (lax.expand_dims(a, range(a.ndim - 1, a.ndim - 1 + heads)) for a in (place.cos, place.sin))
    y = x.astype(jnp.float32)
    half = x.shape[-1] // 2
    low, high = lax.slice_in_dim(y, 0, half, axis=-1), lax.slice_in_dim(y, half, None, axis=-1)
    return (y * cos + lax.concatenate([-high, low], y.ndim - 1) * sin).astype(x.dtype)


def _write(place: Place, cache: Cache, rows: dict[str, Any]) -> Cache:
    """The cache with one more row: [B, T, ...] ← [B, ...] at `place.index`."""
    return {name: _write_row(cache[name], rows[name], place.index) for name in ("k", "v")}


def _write_row(cache: Array, row: Array, index: Any) -> Array:
    return lax.dynamic_update_slice_in_dim(
        cache, lax.expand_dims(row, (1,)), index, axis=1, allow_negative_indices=False
    )
