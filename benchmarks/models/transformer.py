"""A decoder-only transformer: one readable implementation of every model in the zoo.

`prefill` reads a prompt, `decode` adds one token per sequence, `loss` is what training lowers. All are pure
functions of a `Config` (static) and arrays.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.models.config import Config
from benchmarks.models.layers import Cache, Layer, Place, attention, mlp, norm

Tree = Any


def block(config: Config, layer: Layer, x: Array, place: Place, cache: Cache | None = None) -> tuple[Array, Cache]:
    """One layer on the residual stream x [B, ..., E]; also gives the keys and values that it looked at."""
    if config.block == "serial":
        attended, seen = attention(config, layer, norm(config, x, layer["attention_norm"]), place, cache)
        x = x + attended
        return x + mlp(config, layer, norm(config, x, layer["mlp_norm"])), seen
    y = norm(config, x, layer["norm"])
    attended, seen = attention(config, layer, y, place, cache)
    # In this order, the two open sums of a tensor-parallel block can share one reduction.
    return x + (attended + mlp(config, layer, y)), seen


def prefill(config: Config, params: Tree, tokens: Array) -> tuple[Array, Tree]:
    """Read whole prompts.

    Args:
        config: The model.
        params: Its parameters.
        tokens: Prompts [B, L], int32.

    Returns:
        Logits [B, V] float32 of the token after each prompt; the cache {"k", "v"} of [layers, B, L, KV, D]
        ([layers, B, L, D] if multiquery), or a tuple with one such dict a layer where layers are unrolled.
    """
    x, place = _enter(config, params, tokens)
    x, cache = _through(config, lambda x, layer: block(config, layer, x, place), x, params["layers"])
    return logits(config, params, x[:, -1]), cache


def decode(config: Config, params: Tree, cache: Tree, tokens: Array, position: Array) -> tuple[Array, Tree]:
    """Add one token to each sequence.

    Args:
        config: The model.
        params: Its parameters.
        cache: Keys and values of T positions, shaped as `prefill` returns them.
        tokens: The tokens at `position`, [B] int32.
        position: Where they stand, an int32 scalar in [0, T).

    Returns:
        Logits [B, V] float32 of the next token, and the cache with row `position` written.
    """
    context = jax.tree.leaves(cache)[0].shape[2 if config.scan else 1]
    mask = _mask(lax.iota(jnp.int32, context) <= position)
    place = Place(mask, *rotation(config, position), index=position)
    x = _embed(params, tokens)
    if config.positions == "learned":
        x = x + lax.dynamic_index_in_dim(params["positions"], position, 0, keepdims=False, allow_negative_indices=False)
    layers = (params["layers"], cache) if config.scan else tuple(zip(params["layers"], cache))
    x, cache = _through(config, lambda x, pair: block(config, pair[0], x, place, pair[1]), x, layers)
    return logits(config, params, x), cache


def loss(config: Config, params: Tree, tokens: Array) -> Array:
    """Mean cross entropy of the next token, layers rematerialised: [B, L + 1] int32 → scalar float32."""
    x, place = _enter(config, params, lax.slice_in_dim(tokens, 0, -1, axis=1))
    # A scan's iterations are never merged, so only unrolled layers need the barrier against it.
    layer_fun = jax.checkpoint(lambda x, layer: (block(config, layer, x, place)[0], None), prevent_cse=not config.scan)
    x, _ = _through(config, layer_fun, x, params["layers"])
    return _cross_entropy(logits(config, params, x), lax.slice_in_dim(tokens, 1, None, axis=1))


def logits(config: Config, params: Tree, x: Array) -> Array:
    """Scores of every token of the vocabulary, float32: [..., E] → [..., V]."""
    y = norm(config, x, params["norm"])
    if config.tied:
        return jnp.einsum("...e,ve->...v", y, params["embedding"], preferred_element_type=jnp.float32)
    return jnp.einsum("...e,ev->...v", y, params["unembedding"], preferred_element_type=jnp.float32)


def _cross_entropy(scores: Array, targets: Array) -> Array:
    """Picks the target by comparison, not by gather: a gather would want every score on one device."""
    top = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    shifted = scores - top
    hit = lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1) == targets[..., None]
    picked = jnp.sum(jnp.where(hit, shifted, 0.0), axis=-1)
    return jnp.mean(jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - picked)


def _through(config: Config, fun: Callable, x: Array, layers: Tree) -> tuple[Array, Tree]:
    """`lax.scan` of `fun` over layers, or the same unrolled."""
    if config.scan:
        return lax.scan(fun, x, layers)
    outs = []
    for layer in layers:
        x, out = fun(x, layer)
        outs.append(out)
    return x, tuple(outs)


def _enter(config: Config, params: Tree, tokens: Array) -> tuple[Array, Place]:
    """The residual stream [B, L, E] of whole sequences, and their causal mask."""
    length = tokens.shape[1]
    index = lax.iota(jnp.int32, length)
    mask = _mask(index[None, :] <= index[:, None])
    x = _embed(params, tokens)
    if config.positions == "learned":
        x = x + lax.slice_in_dim(params["positions"], 0, length)
    return x, Place(mask, *rotation(config, index))


def _mask(seen: Array) -> Array:
    """What is added to a score: nothing where the position is seen."""
    return jnp.where(seen, jnp.float32(0), jnp.float32(-1e30))


def _embed(params: Tree, tokens: Array) -> Array:
    return params["embedding"].at[tokens].get(mode="clip", wrap_negative_indices=False)


def rotation(config: Config, index: Array) -> tuple[Array | None, Array | None]:
    """Cosine and sine [..., D] of the angles at positions `index` [...]."""
    if config.positions == "learned":
        return None, None
    half = config.d_head // 2
    rate = config.theta ** (-lax.iota(jnp.float32, half) / half)
    angle = index[..., None].astype(jnp.float32) * rate
    angle = lax.concatenate([angle, angle], angle.ndim - 1)
    return jnp.cos(angle), jnp.sin(angle)
