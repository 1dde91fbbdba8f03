"""Models of flax linen, flax nnx, equinox and haiku, as their users write them."""

import sys

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from programs import mesh

import planner
from planner import autoshard, make_plan, testing

MESH = mesh(2, 4)
X = np.random.default_rng(0).normal(size=(8, 8, 16)).astype(np.float32)
EAGER = {"mesh": MESH, "machine": testing.EAGER, "compiler_options": {"xla_backend_optimization_level": 0}}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=4)(y, y)
        return x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x)))), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return nn.Dense(8)(layers()(x, None)[0])


def test_linen_with_its_scan_and_remat():
    model = Stack()
    params = model.init(jax.random.key(0), X)
    testing.assert_equivalent(model.apply, params, X, grad=True, **EAGER)
    done = make_plan(model.apply, jax.eval_shape(model.init, jax.random.key(0), X), X, mesh=MESH, machine="tpu-v4")
    assert not done.notes and done.arguments[0].name.startswith("variables")


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.drop = nnx.BatchNorm(16, rngs=rngs), nnx.Dropout(0.1, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=4, in_features=16, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(16, 32, rngs=rngs), nnx.Linear(32, 16, rngs=rngs)

    def __call__(self, x):
        x = x + self.drop(self.attention(self.norm(x)))
        return x + self.down(nnx.gelu(self.up(x)))


def test_nnx_with_what_it_writes():
    model = Layer(nnx.Rngs(0))
    fun, state = planner.functional(model, lambda model, x: (model(x), nnx.state(model, nnx.BatchStat)))
    testing.assert_equivalent(fun, state, X, **EAGER)
    model.eval()
    fun, state = planner.functional(model)
    testing.assert_equivalent(fun, state, X, grad=True, **EAGER)


def test_nnx_from_shapes_alone():
    fun, state = planner.functional(nnx.eval_shape(lambda: Layer(nnx.Rngs(0))))
    done = make_plan(fun, state, X, mesh=MESH, machine=testing.EAGER)
    assert done.seconds > 0 and all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(state) if x.ndim)


def test_equinox():
    model = eqx.nn.MLP(16, 8, 32, 2, key=jax.random.key(0))
    fun, arrays = planner.functional(model, lambda model, x: jax.vmap(jax.vmap(model))(x))
    testing.assert_equivalent(fun, arrays, X, grad=True, **EAGER)
    abstract = eqx.filter_eval_shape(eqx.nn.MLP, 16, 8, 32, 2, key=jax.random.key(0))
    fun, arrays = planner.functional(abstract, lambda model, x: jax.vmap(jax.vmap(model))(x))
    assert make_plan(fun, arrays, X, mesh=MESH, machine=testing.EAGER).seconds > 0


def test_an_equinox_module_calls_itself():
    model = eqx.nn.Linear(16, 8, key=jax.random.key(0))
    fun, arrays = planner.functional(model)
    np.testing.assert_allclose(autoshard(fun, **EAGER)(arrays, X[0, 0]), model(jnp.asarray(X[0, 0])), rtol=1e-5)


def test_haiku():
    def model(x):
        y = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(4, 4, w_init=hk.initializers.VarianceScaling(1.0), model_size=16)(y, y, y)
        return x + hk.Linear(16)(jax.nn.gelu(hk.Linear(32)(x)))

    fun = hk.transform(model)
    params = fun.init(jax.random.key(0), X)
    testing.assert_equivalent(lambda params, x: fun.apply(params, None, x), params, X, grad=True, **EAGER)


def test_frameworks_are_not_imported_unasked(monkeypatch):
    for name in ("flax", "equinox", "haiku"):
        monkeypatch.setitem(sys.modules, name, None)
    fun, arrays = planner.functional({"w": X, "name": "a model"}, lambda model, x: x @ model["w"][0].T)
    assert arrays["name"] is None and fun(arrays, X).shape == (8, 8, 8)
