"""A small model of every kind, trained on eight devices after its plan, gives what it gives on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import abstract_mesh
from programs import mesh

from benchmarks.models import SMALL, moe
from planner import make_plan, testing

QUICK = {"xla_backend_optimization_level": 0}
MESHES = dict(zip(SMALL, (mesh(2, 4), mesh(8), mesh(2, 4), mesh(8), mesh(2, 4), mesh(8))))
every = pytest.mark.parametrize("kind", SMALL)


def quick(number: int = 0) -> jax.Array:
    return jax.random.key(number, impl="rbg")


@every
def test_loss_and_gradients(kind):
    model = SMALL[kind][0]()
    params, batch = model.init(quick()), list(model.batch(quick(1)))
    testing.assert_equivalent(
        jax.value_and_grad(model.loss), params, *batch, mesh=MESHES[kind], machine=testing.EAGER, compiler_options=QUICK
    )


@every
def test_every_parameter_matters(kind):
    model = SMALL[kind][0]()
    grads = jax.jit(jax.grad(model.loss))(model.init(quick()), *model.batch(quick(1)))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.max(np.abs(grad)) > 1e-6, jax.tree_util.keystr(path)


@every
def test_training_at_a_real_size_is_planned_without_a_foreign_rule(kind):
    fun, args = SMALL[kind][1]().train()
    done = make_plan(
        fun, *args, mesh=abstract_mesh(4, 4), machine="tpu-v4", known=False, donate_argnums=(0, 1), work=0.1
    )
    assert np.isfinite(done.seconds) and done.peak_bytes <= done.limit
    assert not [note for note in done.notes if "no rule" in note or "opaque" in note]


def test_both_kinds_of_experts_agree_where_nothing_is_dropped():
    model = moe.tiny()
    w = jax.tree.map(lambda a: a[0], model.init(quick())["layers"])
    x = jax.random.normal(quick(1), (2, 16, 16))
    np.testing.assert_allclose(moe.dense(w, x, capacity=8.0), moe.ragged(w, x, top=1), rtol=1e-5, atol=1e-5)
    assert not np.allclose(moe.dense(w, x, capacity=1.0), moe.dense(w, x, capacity=8.0))


def test_a_state_space_model_sees_only_the_past():
    model = SMALL["state space"][0]()
    params, (tokens, _) = model.init(quick()), model.batch(quick(1))
    other = model.forward(params, tokens.at[:, 8:].set(0))
    np.testing.assert_allclose(model.forward(params, tokens)[:, :8], other[:, :8], rtol=1e-4, atol=1e-4)
    assert jnp.abs(model.forward(params, tokens) - other).max() > 1e-2
