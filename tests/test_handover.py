"""Peaks in units of one [64, 64] float32 array, with everything whole."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from graphs import abstract_mesh, array, formulated, named, of_role
from jax import lax

from planner.solve.problem import peak

UNIT = 64 * 64 * 4
DUS = "dynamic_update_slice"
ARRAY, ROW = array(64, 64), array(1, 64)


def units(fun, *args, **options):
    found = formulated(fun, *args, mesh=abstract_mesh(1), **options)
    return peak(found.problem, [0] * len(found.strategies)) / UNIT


def write(cache, row, i: Any = 0):
    return lax.dynamic_update_slice(cache, row, (i, 0))


def generate(cache, row):
    return lax.scan(lambda cache, i: (write(cache, row, i), None), cache, jnp.arange(4))[0]


def through(caches, row):
    return lax.scan(lambda row, cache: (row, write(cache, row)), row, caches)


@pytest.mark.parametrize(
    ("fun", "args", "kept", "donated"),
    [
        (write, (ARRAY, ROW), 2, 1),
        (lambda cache, row: write(write(cache, row), 2 * row, 3), (ARRAY, ROW), 2, 1),
        (generate, (ARRAY, ROW), 2, 1),
        (lambda cache, row: generate(generate(cache, row), 2 * row), (ARRAY, ROW), 2, 1),
        (lambda cache, row: cache.at[jnp.array([3, 5])].add(row), (ARRAY, ROW), 2, 1),
        (lambda cache, row: jnp.sin(cache) * 2 + cache, (ARRAY, ROW), 2, 1),
        (lambda cache, row: cache @ cache, (ARRAY, ROW), 2, 2),  # read until it is written
        (lambda cache, row: write(cache, (row @ cache) @ cache), (ARRAY, ROW), 2, 1),
        (lambda cache, row: (write(cache, row), row @ cache), (ARRAY, ROW), 2, 2),  # the old one is read afterwards
        (through, (array(8, 64, 64), ROW), 18, 8),  # a slice read and one written; a donated stack is carried
    ],
)
def test_an_argument_and_the_result_in_its_place(fun, args, kept, donated):
    assert units(fun, *args) == pytest.approx(kept, abs=0.1)
    assert units(fun, *args, donate_argnums=0) == pytest.approx(donated, abs=0.1)


def test_an_argument_that_no_result_replaces_is_copied_into_a_carry():
    def fun(cache, row):
        return jnp.sum(generate(cache, row))

    assert units(fun, ARRAY, ROW, donate_argnums=0) == units(fun, ARRAY, ROW) == pytest.approx(2, abs=0.1)


def test_a_temporary_becomes_the_carry():
    assert units(lambda x, row: generate(x @ x, row), ARRAY, ROW) == pytest.approx(2, abs=0.1)
    assert units(lambda x, row: (lambda y: (generate(y, row), y))(x @ x), ARRAY, ROW) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda c, x: jnp.sin(c), 2),
        (lambda c, x: c + jnp.sin(c), 2),
        (lambda c, x: c @ x, 3),  # written while the carry is read
        (lambda c, x: jnp.sin(c @ x) @ x, 3),  # the carry is done when the second one is written
        (lambda c, x: c + jnp.sin(c @ x), 3),
        (lambda c, x: write(c, c[1:2]), 2),
    ],
)
def test_what_a_body_returns_goes_where_the_carry_lies(step, expected):
    """The argument, the carry, and what the body needs beside."""

    def fun(x):
        return lax.scan(lambda c, _: (step(c, x), None), x, None, length=3)[0]

    assert units(fun, ARRAY) == pytest.approx(expected, abs=0.1)


def test_carries_that_change_places_are_copied():
    def fun(x):
        return lax.scan(lambda c, _: ((c[1], c[0]), None), (x @ x, jnp.sin(x) @ x), None, length=3)[0]

    assert units(fun, ARRAY) == 5


def test_nested_loops_share_the_carry():
    def fun(cache, row):
        return lax.scan(lambda c, _: (generate(c, row), None), cache, None, length=3)[0]

    assert units(fun, ARRAY, ROW, donate_argnums=0) == pytest.approx(1, abs=0.1)


def test_updates_in_a_row_are_made_in_one_place():
    def fun(x, row):
        return write(write(write(x @ x, row), row, 1), row, 2) @ x

    assert units(fun, ARRAY, ROW) == pytest.approx(3, abs=0.1)


def test_only_a_lone_array_is_overwritten_element_by_element():
    assert units(lambda x: jnp.sin(x @ x) @ x, ARRAY) == 3
    assert units(lambda x: (jnp.sin(x @ x) * (x @ x)) @ x, ARRAY) == 4  # argument, two products, their product


def held(found, split):
    """Units at the peak where nodes `split` are halved, everything else is whole."""
    layouts = [[s.result(0)[x] for x in range(len(s))] for s in found.strategies]
    choice = [next(x for x, d in enumerate(some) if d.any() == (n in split)) for n, some in enumerate(layouts)]
    return peak(found.problem, choice) / UNIT


def test_layouts_that_differ_need_both_buffers():
    """The argument is halved and gathered for the loop; or each update is made on halves and gathered.

    What is gathered for the argument lies beside it first.
    """
    found = formulated(generate, ARRAY, ROW, mesh=abstract_mesh(2), donate_argnums=0)
    cache, carry, update = found.graph.inputs[0], *of_role(found.graph, "carry"), *named(found.graph, DUS)
    assert held(found, []) == pytest.approx(1, abs=0.1)
    assert held(found, [cache, carry, update]) == pytest.approx(0.5, abs=0.1)
    assert held(found, [cache]) == pytest.approx(1.5, abs=0.1)
    assert held(found, [carry, update]) == pytest.approx(2.5, abs=0.1)
    assert held(found, [update]) >= 1.4
    assert held(found, [carry]) >= 1.4


def test_gradients_of_a_scan_are_summed_in_place():
    def loss(w, x):
        return jnp.sum(lax.scan(lambda c, _: (jnp.sin(c @ w), None), x, None, length=5)[0])

    alone = units(jax.grad(loss), ARRAY, ROW)
    assert 2.9 < alone < 3.5  # the weight, its gradient so far and that of a step
