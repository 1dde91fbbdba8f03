"""State in a scan: the same values, and no second stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from passes import jaxpr
from passes.dce import eliminate
from passes.in_place import in_place
from passes.inline import inline
from passes.scan import counts

STACK = np.random.default_rng(0).normal(size=(5, 8, 4)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(4,)).astype(np.float32)


def layers(stack, x, row):
    """Each layer writes a row of its slice, and reads all of it."""

    def layer(x, s):
        s = lax.dynamic_update_slice_in_dim(s, jnp.tanh(x)[None], row, 0)
        return x + s.sum(0), (s, x)

    x, (stack, seen) = lax.scan(layer, x, stack)
    return stack, x, seen


def program(fun, *args):
    return eliminate(inline(jax.make_jaxpr(fun)(*args)))


def scans(closed):
    return [eqn for _, eqn in jaxpr.walk(closed) if jaxpr.primitive_name(eqn) == "scan"]


def test_the_same_values():
    closed = program(layers, STACK, X, 3)
    changed = in_place(closed, {0: 0})
    assert changed is not closed
    for a, b in zip(jaxpr.as_fun(closed)(STACK, X, 3), jaxpr.as_fun(changed)(STACK, X, 3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_stack_is_carried():
    (before,), (after,) = scans(program(layers, STACK, X, 3)), scans(in_place(program(layers, STACK, X, 3), {0: 0}))
    assert [counts(e)[1] for e in (before, after)] == [1, 3]
    assert [len(e.outvars) - counts(e)[1] for e in (before, after)] == [2, 1]


def test_a_row_is_written_into_the_stack_and_nowhere_else():
    """No slice is copied: what reads it after the write reads the stack."""
    changed = eliminate(in_place(program(layers, STACK, X, 3), {0: 0}))
    found = [e for _, e in jaxpr.walk(changed) if jaxpr.primitive_name(e) == "dynamic_update_slice"]
    assert [e.invars[0].aval.str_short() for e in found] == ["float32[5,8,4]"]
    read = [e for _, e in jaxpr.walk(changed) if jaxpr.primitive_name(e) == "dynamic_slice"]
    assert [e.invars[0] for e in read] == [found[0].outvars[0]]


def test_equations_keep_their_lines():
    changed = in_place(program(layers, STACK, X, 3), {0: 0})
    lines = {jaxpr.source(eqn) for _, eqn in jaxpr.walk(changed) if jaxpr.primitive_name(eqn) == "tanh"}
    assert all("test_in_place.py" in line for line in lines)


def without_update(stack, x, row):
    return lax.scan(lambda x, s: (x + s.sum(0), s * 2), x, stack)[::-1]


def backwards(stack, x, row):
    def layer(x, s):
        s = lax.dynamic_update_slice_in_dim(s, x[None], row, 0)
        return x + s.sum(0), s

    return lax.scan(layer, x, stack, reverse=True)[::-1]


@pytest.mark.parametrize(("fun", "kept"), [(layers, {}), (without_update, {0: 0}), (backwards, {0: 0})])
def test_what_is_left_alone(fun, kept):
    closed = program(fun, STACK, X, 3)
    assert in_place(closed, kept) is closed
