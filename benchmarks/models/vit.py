"""A vision transformer: patches of an image as tokens. Dosovitskiy et al. 2020."""

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

CHANNELS = 4


def init(key: Array, layers: int, width: int, heads: int, patch: int, tokens: int, classes: int) -> Tree:
    """Patch embedding, positions, stacked layers, a classifier."""
    draw = Draw(key)
    return {
        "patch": draw(patch, patch, CHANNELS, width, fan_in=patch * patch * CHANNELS),
        "place": draw(tokens, width, fan_in=width),
        "attention": attention_weights(draw, layers, width, heads),
        "mlp": mlp_weights(draw, layers, width, 4 * width),
        "out": draw(width, classes, fan_in=width),
    }


def forward(params: Tree, images: Array) -> Array:
    """Class scores of [B, H, W, C] images."""
    stride = params["patch"].shape[:2]
    numbers = ("NHWC", "HWIO", "NHWC")
    x = lax.conv_general_dilated(images, params["patch"], stride, "VALID", dimension_numbers=numbers)
    x = x.reshape(x.shape[0], -1, x.shape[-1]) + params["place"]

    def layer(x: Array, w: Tree) -> tuple[Array, None]:
        x = x + attention(w["attention"], norm(x))
        return x + mlp(w["mlp"], norm(x)), None

    x, _ = lax.scan(jax.checkpoint(layer), x, {name: params[name] for name in ("attention", "mlp")})
    return norm(jnp.mean(x, 1)) @ params["out"]


def loss(params: Tree, images: Array, targets: Array) -> Array:
    """Cross-entropy."""
    return cross_entropy(forward(params, images), targets)


def model(batch: int, side: int, patch: int, layers: int, width: int, heads: int, classes: int) -> Small:
    """The model of one size."""
    begin = partial(init, layers=layers, width=width, heads=heads, patch=patch, classes=classes)
    images = jax.ShapeDtypeStruct((batch, side, side, CHANNELS), jnp.float32)
    targets = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return Small(partial(begin, tokens=(side // patch) ** 2), forward, loss, (images,), targets, classes)


def tiny() -> Small:
    """8 devices can split nearly every dim."""
    return model(8, 16, 4, 2, 16, 8, 8)


def base() -> Small:
    """ViT-L/16 on 224 × 224 pixels."""
    return model(512, 224, 16, 24, 1024, 16, 1024)
