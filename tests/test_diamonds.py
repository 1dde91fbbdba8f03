"""planner.diamonds: what a softmax stores."""

import jax
import jax.numpy as jnp
import pytest
from graphs import array, graph, named
from jax import lax

from planner.graph import Port
from planner.liveness import buffers
from planner.work import operand_avals


def softmax(x):
    e = jnp.exp(x - lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
    return e / jnp.sum(e, -1, keepdims=True)


def mixed(q, k, v, stored):
    scores = jnp.matmul(q, k, preferred_element_type=stored)
    return softmax(scores).astype(v.dtype) @ v


def attention(stored):
    some = array(16, 16, dtype=jnp.bfloat16)
    return graph(lambda q, k, v: mixed(q, k, v, stored), some, some, some)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_softmax_stores_exponentials_and_no_shares(dtype):
    some = attention(dtype)
    held, (exp,), (div,) = buffers(some), named(some, "exp"), named(some, "div")
    assert Port(exp) in held.stored
    assert some.aval(Port(exp)).dtype == jnp.dtype(dtype).name
    assert Port(div) not in held.stored


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_exponentials_are_read_once_as_wide_as_they_are(dtype):
    some = attention(dtype)
    held, exp, dot = buffers(some), named(some, "exp")[0], named(some, "dot_general")[-1]
    operands = operand_avals(some, held.stored, held.widened, held.cut, held.beside)
    assert operands[dot][0].aval.itemsize == jnp.dtype(dtype).itemsize
    assert operands[dot][0].held
    targets = [e for e in some.edges if e.source == Port(exp)]
    assert not any(operands[e.target][e.operand].held for e in targets)


def test_what_no_matmul_reads_is_computed_twice():
    some = graph(lambda x: softmax(x) * 2.0, array(16, 16))
    assert Port(named(some, "exp")[0]) not in buffers(some).stored


def test_a_norm_stores_nothing_more():
    some = graph(lambda x, w: (x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True))) @ w, array(16, 16), array(16, 16))
    assert not buffers(some).beside


def test_jax_nn_softmax_is_one():
    some = graph(lambda x, w: jax.nn.softmax(x @ w) @ w, array(16, 16), array(16, 16))
    assert Port(named(some, "exp")[0]) in buffers(some).stored
