"""A small program to plan, its arguments, and meshes of eight devices."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import P
from jax.sharding import AbstractMesh, AxisType
from programs import mesh

from planner import autoshard, testing
from planner.cost.hardware import Chip, Fabric, Machine

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


SLOW_LINKS = Machine("slow links", Chip("slow links", {"float32": 1e7}, 1e9, 1e9), Fabric(1e6, 1e-9, torus=3, wraps=2))


def residual_specs(mesh, *leading):
    """Both weights over all axes, x on the dim that the residual stream has."""
    return {"up": P(*leading, "x", mesh.axis_names[1:]), "down": P(*leading, mesh.axis_names[1:], "x")}


def residual(w, x):
    """A residual MLP: where all axes split both weights, a ring over x leaves a sum open over the others."""
    return x + jnp.tanh(x @ w["up"]) @ w["down"]
