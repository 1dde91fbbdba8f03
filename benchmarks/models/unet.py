"""A convolutional U-Net: down by halves, up again, with the fine features handed across. Ronneberger et al. 2015."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.models.small import Draw, Small, Tree

NUMBERS = ("NHWC", "HWIO", "NHWC")
CHANNELS = 4


def init(key: Array, depth: int, width: int) -> Tree:
    """Two convolutions on each level down, one up and two after the join on each level up."""
    draw = Draw(key)

    def conv(size: int, inner: int, outer: int) -> Array:
        return draw(size, size, inner, outer, fan_in=size * size * inner)

    widths = [width * 2**level for level in range(depth + 1)]
    downs = list(zip([CHANNELS, *widths], widths))
    return {
        "down": [{"first": conv(3, a, b), "second": conv(3, b, b)} for a, b in downs],
        "up": [{"up": conv(2, 2 * b, b), "first": conv(3, 2 * b, b), "second": conv(3, b, b)} for b in widths[:-1]],
        "out": conv(1, width, CHANNELS),
    }


def forward(params: Tree, images: Array) -> Array:
    """[B, H, W, C] to [B, H, W, C]."""
    kept, x = [], images
    for level, w in enumerate(params["down"]):
        x = _twice(w, x if level == 0 else _halved(x))
        kept.append(x)
    for w, fine in zip(reversed(params["up"]), reversed(kept[:-1])):
        x = lax.conv_transpose(x, w["up"], (2, 2), "SAME", dimension_numbers=NUMBERS)
        x = _twice(w, jnp.concatenate([fine, x], -1))
    return _conv(x, params["out"])


def _twice(w: Tree, x: Array) -> Array:
    for name in ("first", "second"):
        x = jax.nn.relu(_normalised(_conv(x, w[name])))
    return x


def _conv(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)


def _halved(x: Array) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _normalised(x: Array) -> Array:
    """Each channel of each image: mean zero, variance one."""
    mean = jnp.mean(x, (1, 2), keepdims=True)
    return (x - mean) * lax.rsqrt(jnp.mean((x - mean) ** 2, (1, 2), keepdims=True) + 1e-5)


def loss(params: Tree, images: Array, targets: Array) -> Array:
    """Mean squared error."""
    return jnp.mean((forward(params, images) - targets) ** 2)


def model(batch: int, side: int, depth: int, width: int) -> Small:
    """The model of one size."""
    images = jax.ShapeDtypeStruct((batch, side, side, CHANNELS), jnp.float32)
    return Small(partial(init, depth=depth, width=width), forward, loss, (images,), images)


def tiny() -> Small:
    """8 devices can split nearly every dim."""
    return model(8, 16, 2, 8)


def base() -> Small:
    """Five levels from 64 to 1024 features, on 512 × 512 pixels."""
    return model(64, 512, 4, 64)
