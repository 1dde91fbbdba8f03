"""The parameters of a transformer: their shapes, how many there are, and random values for the tiny ones."""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.models.config import Config

Tree = Any


@dataclass(frozen=True)
class Weight:
    """One parameter: each output sums over `fan_in` inputs; 0 is a scale that starts near one."""

    shape: tuple[int, ...]
    fan_in: int = 0


def weights(config: Config) -> Tree:
    """Every parameter: `layers` is one dict of weights [layers, ...], or a tuple of dicts where unrolled."""
    e, v = config.d_model, config.vocab
    tree = {"embedding": Weight((v, e), e), "layers": _layers(config), "norm": Weight((e,))}
    if config.positions == "learned":
        tree["positions"] = Weight((config.max_length, e), e)
    if not config.tied:
        tree["unembedding"] = Weight((e, v), e)
    return tree


def _layers(config: Config) -> Tree:
    layer = _attention(config) | _mlp(config) | _norms(config)
    if not config.scan:
        return (layer,) * config.layers
    return {name: Weight((config.layers, *w.shape), w.fan_in) for name, w in layer.items()}


def _attention(config: Config) -> dict[str, Weight]:
    e, h, d = config.d_model, config.heads, config.d_head
    kv = Weight((e, *config.kv_shape), e)
    return {"wq": Weight((e, h, d), e), "wk": kv, "wv": kv, "wo": Weight((h, d, e), h * d)}


def _mlp(config: Config) -> dict[str, Weight]:
    e, f = config.d_model, config.d_ff
    gate = {"gate": Weight((e, f), e)} if config.activation == "swiglu" else {}
    return gate | {"up": Weight((e, f), e), "down": Weight((f, e), f)}


def _norms(config: Config) -> dict[str, Weight]:
    names = ("norm",) if config.block == "parallel" else ("attention_norm", "mlp_norm")
    return {name: Weight((config.d_model,)) for name in names}


def abstract(config: Config) -> Tree:
    """The parameters as `ShapeDtypeStruct`s: no memory at any size."""
    return jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, config.dtype), weights(config))


def count(config: Config) -> int:
    """Number of parameters, shared ones once."""
    return sum(math.prod(w.shape) for w in jax.tree.leaves(weights(config)))


def init(config: Config, key: jax.Array) -> Tree:
    """Random parameters of variance 1 / fan_in; scales near one, since at one a lost scale hides."""
    leaves, structure = jax.tree.flatten(weights(config))
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten([_draw(w, k, config) for w, k in zip(leaves, keys)])


def _draw(weight: Weight, key: jax.Array, config: Config) -> jax.Array:
    noise = jax.random.normal(key, weight.shape, jnp.float32)
    value = noise / math.sqrt(weight.fan_in) if weight.fan_in else 1.0 + 0.1 * noise
    return value.astype(config.dtype)
