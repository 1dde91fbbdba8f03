"""A small program to plan, its arguments, and meshes of eight devices."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType
from programs import mesh

from planner import autoshard, testing

MESH = mesh(2, 4)
EXPLICIT = mesh(2, 4, kind=AxisType.Explicit)
ABSTRACT = AbstractMesh((2, 4), ("x", "y"))
SHAPES = [(8, 16), (16, 32), (32, 8)]
X, W, V = (np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(SHAPES))
eager = functools.partial(autoshard, machine=testing.EAGER)


def mlp(x, w, v):
    return jnp.tanh(x @ w) @ v


EXPECTED = np.asarray(mlp(X, W, V))


def close(actual: Any, desired: Any = EXPECTED) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(desired), rtol=2e-5, atol=2e-5)
