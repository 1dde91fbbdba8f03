import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from jax.extend.core import check_jaxpr  # noqa: TID251

from passes import jaxpr
from passes.dce import eliminate

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32) / 4


def names(closed):
    return [jaxpr.primitive_name(eqn) for _, eqn in jaxpr.walk(closed)]


def test_removes_chains_without_a_reader():
    def fun(x):
        jnp.exp(jnp.cos(x))
        return jnp.sin(x)

    new = eliminate(jax.make_jaxpr(fun)(X))
    check_jaxpr(new.jaxpr)
    assert names(new) == ["sin"]


def test_removes_inside_of_a_scan():
    def layer(c, row):
        jnp.exp(jnp.cos(c))
        return jnp.sin(c) * jnp.sum(row), None

    new = eliminate(jax.make_jaxpr(lambda x: jax.lax.scan(layer, x, x)[0])(X))
    check_jaxpr(new.jaxpr)
    assert names(new) == ["scan", "sin", "reduce_sum", "mul"]


def test_removes_whole_loops():
    new = eliminate(jax.make_jaxpr(lambda x: (programs.scan(x), x)[1])(X))
    assert names(new) == []


def test_keeps_effects_and_what_they_read():
    def fun(x):
        jax.debug.callback(lambda _: None, jnp.cos(x))
        return jnp.sin(x)

    assert names(eliminate(jax.make_jaxpr(fun)(X))) == ["cos", "debug_callback", "sin"]


def test_keeps_equations_with_one_result_read():
    closed = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, r: (c + r, c * r), x[0], x)[1])(X)
    assert names(eliminate(closed)).count("scan") == 1


@pytest.mark.parametrize("fun", programs.ALL)
def test_values_stay(fun):
    new = eliminate(jax.make_jaxpr(fun)(X))
    check_jaxpr(new.jaxpr)
    np.testing.assert_array_equal(jax.jit(jaxpr.as_fun(new))(X)[0], jax.jit(fun)(X))


def test_nothing_dead_is_the_same_object():
    closed = jax.make_jaxpr(programs.flat)(X)
    assert eliminate(closed) is closed
