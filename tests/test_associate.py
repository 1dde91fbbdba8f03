"""Sums whose terms are added in another order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import array
from hypothesis import given
from hypothesis import strategies as st
from programs import mesh

from passes.associate import associate
from passes.jaxpr import as_fun, primitive_name
from planner.open_sums import open_values

X = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)


def adds(closed):
    """Operands of each addition, by the primitives that made them."""
    made = {v: primitive_name(eqn) for eqn in closed.eqns for v in eqn.outvars}
    return [[made.get(v, "input") for v in eqn.invars] for eqn in closed.eqns if primitive_name(eqn) == "add"]


def traced(fun, *args):
    before = jax.make_jaxpr(fun)(*args)
    return before, associate(before, open_values)


def test_products_are_added_before_the_rest():
    before, after = traced(lambda x: x + x @ x + jnp.tanh(x) + (x @ x).T, X)
    assert adds(before) == [["input", "dot_general"], ["add", "tanh"], ["add", "transpose"]]
    assert adds(after) == [["input", "tanh"], ["dot_general", "transpose"], ["add", "add"]]
    np.testing.assert_allclose(as_fun(after)(X)[0], as_fun(before)(X)[0], rtol=1e-5)


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: (x @ x + x @ x.T) + x,  # in order
        lambda x: x + x @ x + x,  # one product
        lambda x: (y := x + x @ x, y + x.T @ x),  # a partial sum that is read elsewhere
        lambda x: x.astype(int) + (x @ x).astype(int) + (x @ x.T).astype(int),
    ],
)
def test_what_gains_nothing_stays(fun):
    before, after = traced(fun, X)
    assert after is before


def test_bodies_are_changed_and_regions_of_the_user_are_not():
    def layer(x, _):
        return x + x @ x + x.T @ x, None

    def scanned(x):
        return jax.lax.scan(layer, x, None, 3)[0]

    before, after = traced(scanned, X)
    assert after is not before
    np.testing.assert_allclose(as_fun(after)(X / 8)[0], as_fun(before)(X / 8)[0], rtol=1e-5)
    spec = jax.sharding.PartitionSpec()
    region = jax.shard_map(lambda x: layer(x, None)[0], mesh=mesh(1), in_specs=spec, out_specs=spec)
    before, after = traced(region, X)
    assert after is before


@given(st.lists(st.integers(0, 3), min_size=3, max_size=9), st.randoms(use_true_random=False))
def test_any_tree_of_additions_keeps_its_terms(kinds, draw):
    terms = (lambda x: x, lambda x: x @ x, jnp.tanh, lambda x: x @ x.T)
    order = [draw.randrange(n) for n in range(len(kinds) - 1, 0, -1)]

    def fun(x):
        left = [terms[k](x) for k in kinds]
        for k in order:
            left.append(left.pop(0) + left.pop(min(k, len(left) - 1)))
        return left[0]

    before, after = traced(fun, array(8, 8))
    assert len(after.eqns) == len(before.eqns)
    np.testing.assert_allclose(as_fun(after)(X)[0], as_fun(before)(X)[0], rtol=2e-5, atol=2e-5)
