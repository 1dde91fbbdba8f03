import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from jax.extend.core import check_jaxpr  # noqa: TID251
from jax.sharding import NamedSharding, PartitionSpec

from passes import jaxpr
from passes.inline import inline

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32) / 4


def names(closed):
    return [jaxpr.primitive_name(eqn) for _, eqn in jaxpr.walk(closed)]


@pytest.mark.parametrize("fun", programs.ALL)
def test_only_calls_go(fun):
    closed = jax.make_jaxpr(jax.jit(fun))(X)
    new = inline(closed)
    check_jaxpr(new.jaxpr)
    assert names(new) == [name for name in names(closed) if name != "jit"]
    np.testing.assert_allclose(jax.jit(jaxpr.as_fun(new))(X)[0], jax.jit(fun)(X), rtol=1e-6)


@pytest.mark.parametrize("fun", programs.SMOOTH)
def test_gradients_stay(fun):
    run = jaxpr.as_fun(inline(jax.make_jaxpr(jax.jit(fun))(X)))
    expected = jax.jit(jax.grad(lambda x: jnp.sum(fun(x) ** 2)))(X)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: jnp.sum(run(x)[0] ** 2)))(X), expected, rtol=1e-5)


def test_lines_of_the_callee_stay():
    new = inline(jax.make_jaxpr(jax.jit(programs.flat))(X))
    assert {jaxpr.source(eqn).split(" ")[1] for eqn in new.eqns} == {"(flat)"}


def test_library_calls_lead_to_their_own_caller():
    def fun(x):
        y = jnp.where(x > 0, x, 1.0)
        return jnp.where(y > 2, y, 1.0)

    new = inline(jax.make_jaxpr(fun)(X))
    lines = [jaxpr.source(eqn) for eqn in new.eqns if jaxpr.primitive_name(eqn) == "select_n"]
    assert len(set(lines)) == 2 and all("test_inline.py" in line for line in lines)


def test_shardings_of_a_call_become_constraints():
    sharding = NamedSharding(programs.mesh(8), PartitionSpec("x"))
    closed = jax.make_jaxpr(jax.jit(jnp.sin, in_shardings=sharding, out_shardings=sharding))(X)
    new = inline(closed)
    assert names(new) == ["sharding_constraint", "sin", "sharding_constraint"]
    assert new.eqns[0].params["sharding"] == sharding


def test_no_calls_is_the_same_object():
    closed = jax.make_jaxpr(programs.scan)(X)
    assert inline(closed) is closed
