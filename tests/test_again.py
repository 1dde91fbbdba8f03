"""planner.again: what has to be read again behind a reduction."""

import jax.numpy as jnp
import pytest
from graphs import array, graph
from jax import lax

from planner.again import again
from planner.liveness import buffers
from planner.work import operand_avals

ROWS, WIDTH = 64, 256


def rms(x):
    y = x.astype(jnp.float32)
    return (y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype)


def layer(x):
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, -1, keepdims=True)
    return (y * lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6)).astype(x.dtype)


def found(fun, dtype=jnp.bfloat16):
    some = graph(fun, array(ROWS, WIDTH, dtype=dtype), array(WIDTH, WIDTH, dtype=dtype))
    held = buffers(some)
    return some, again(some, held.stored, held.beside)


def reads(some, more):
    """Bytes per element of each time that an operation before the matmul reads all of what is normalised."""
    held = buffers(some)
    operands = operand_avals(some, held.stored, held.widened, held.cut, held.beside, more)
    fused = [n for n, node in enumerate(some.nodes) if node.role == "op" and node.name != "dot_general"]
    every = (read for n in fused for read in operands[n].values())
    return [read.aval.itemsize for read in every if read.held and read.aval.shape == (ROWS, WIDTH)]


@pytest.mark.parametrize("norm, times", [(rms, 1), (layer, 2)])
def test_a_narrow_argument_is_read_once_more_for_each_reduction_before(norm, times):
    some, more = found(lambda x, w: norm(x) @ w)
    assert list(more.values()) == [2] * times
    assert reads(some, more) == [2] * (1 + times)


def test_a_wide_argument_is_read_as_often():
    some, more = found(lambda x, w: layer(x) @ w, jnp.float32)
    assert reads(some, more) == [4, 4, 4] and len(more) == 1


def test_what_an_operation_writes_may_be_reduced_there():
    assert not found(lambda x, w: rms(x @ w) @ w)[1]


def test_without_a_reduction_between_nothing_is_read_again():
    some, more = found(lambda x, w: (jnp.tanh(x) * 2 + jnp.sin(x)) @ w)
    assert not more and reads(some, more) == [2, 2]
