"""float32 values that are stored as bfloat16, for matmuls that round what they read."""

import jax.numpy as jnp
import pytest
from graphs import array, graph, named, of_role
from jax import lax

from planner.rounded import rounded

SQUARE = array(64, 64)


def two_products(x, w, precision=None):
    y = jnp.tanh(x)
    return lax.dot(y, w, precision=precision), lax.dot(w, y, precision=precision)


def itemsizes(some, nodes):
    return [aval.itemsize for n in nodes for aval in some.nodes[n].avals]


@pytest.mark.parametrize(("precision", "size"), [(None, 2), ("default", 2), ("high", 4), ("highest", 4)])
def test_what_only_matmuls_read_is_rounded_unless_they_ask_for_more(precision, size):
    some = rounded(graph(lambda x, w: two_products(x, w, precision), SQUARE, SQUARE))
    assert itemsizes(some, named(some, "tanh")) == [size]
    assert itemsizes(some, of_role(some, "copy"))[0] == size
    assert set(itemsizes(some, named(some, "dot_general"))) == {4}


def with_a_sum(x, w):
    y = jnp.tanh(x)
    return y @ w, y.sum()


def returned(x, w):
    y = jnp.tanh(x)
    return y @ w, y


def argument(x, w):
    return x @ w, w @ x


def product(x, w):
    return (x @ w) @ w


@pytest.mark.parametrize("fun", [with_a_sum, returned, argument, product])
def test_what_others_read_or_what_is_not_computed_on_the_fly_stays_as_it_is(fun):
    before = graph(fun, SQUARE, SQUARE)
    assert rounded(before) == before


def test_what_widens_a_narrow_value_is_read_narrow_anyway():
    before = graph(lambda x, w: x.astype(jnp.float32) @ w, array(64, 64, dtype=jnp.int8), SQUARE)
    assert rounded(before) == before
