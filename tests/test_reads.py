import jax.numpy as jnp
from graphs import array, by_hand, graph, named, node
from jax import lax

from planner.graph import Port
from planner.liveness import buffers
from planner.reads import end_of, reads_of


def found(some, n):
    """Reader → when, of a node's first result."""
    return {read.target: read.time for read in reads_of(some, buffers(some).stored)[Port(n)]}


def aligned(some, n):
    return {read.target: read.aligned for read in reads_of(some, buffers(some).stored)[Port(n)]}


def test_a_fused_chain_reads_when_its_result_is_written():
    nodes = [node("op", 1), node("op", 2, fusible=True), node("op", 3, fusible=True), node("op", 4)]
    assert found(by_hand(nodes, [(0, 1), (1, 2), (2, 3)]), 0) == {2: 3}


def test_two_ways_to_one_reader_are_one_read():
    some = graph(lambda x, w: (x * jnp.sin(x)) @ w, array(8, 8), array(8, 8))
    (mul,) = named(some, "mul")
    (read,) = reads_of(some, buffers(some).stored)[Port(some.inputs[0])]
    assert (read.target, read.aligned, len(read.edges)) == (mul, True, 3)


def test_a_copy_that_several_share_lets_its_source_live():
    nodes = [node("op", 1), node("copy", 2), node("op", 2), node("op", 5)]
    assert found(by_hand(nodes, [(0, 1), (1, 2), (1, 3)]), 0) == {2: 2, 3: 5}


def test_what_a_loop_closes_over_is_read_until_its_end_and_a_result_to_the_last():
    nodes = [node("op", 1), node("const", 2, end=6), node("op", 3), node("output", 7)]
    some = by_hand(nodes, [(0, 1), (1, 2), (0, 3)])
    assert found(some, 0) == {1: 6, 3: end_of(some)}


def test_who_writes_where_it_reads():
    def fun(a, b, c, d, w):
        changed = lax.dynamic_update_slice(a, w[:1], (0, 0)), jnp.sin(b) * 2.0
        return *changed, jnp.flip(c), d.T, w @ w

    some = graph(fun, *[array(8, 8)] * 5)
    assert [all(aligned(some, n).values()) for n in some.inputs] == [True, True, False, False, False]
