import jax.numpy as jnp
import pytest
from graphs import array, graph, named, of_role, readers
from jax import lax

from planner.graph import Aval, Port, identity, stacked
from planner.liveness import buffers

X, W = array(8, 16), array(16, 32)


def test_elements_of_a_value():
    assert Aval((3, 4), "float32", 4).elements == 12
    assert Aval((), "float32", 4).elements == 1


def test_a_place_gives_every_dim_a_factor_but_those_of_one():
    rule = identity((8, 1, 4))
    assert rule.operands == rule.results == (((0,), (), (2,)),)
    assert rule.splittable() == (0, 2)
    assert rule.flops == 0 and rule.fusible


@pytest.mark.parametrize("stack", [True, False])
def test_the_dim_of_the_steps_stays_whole(stack):
    rule = stacked((8, 4), stack=stack)
    one, every = (rule.operands[0], rule.results[0])[:: 1 if stack else -1]
    assert one == ((0,), (1,)) and every == ((), (0,), (1,))


def test_a_sum_over_a_dim_may_be_open_and_linear_operations_pass_it():
    some = graph(lambda x, w, y: jnp.exp(-(x @ w) * 2.0 + (y @ w)), X, W, X)
    opened = {some.nodes[p.node].name for p in some.opened}
    assert opened == {"dot_general", "neg", "mul", "add"}


def test_nothing_else_is_open():
    some = graph(lambda x, w: (jnp.tanh(x @ w), x + 1.0, jnp.max(x)), X, W)
    assert {some.nodes[p.node].name for p in some.opened} == {"dot_general"}


def test_an_add_needs_both_open():
    some = graph(lambda x, w, y: x @ w + y, X, W, array(8, 32))
    assert {some.nodes[p.node].name for p in some.opened} == {"dot_general"}


def test_a_product_of_two_open_sums_is_not_open_beyond_one_group():
    some = graph(lambda x, w: (x @ w) * jnp.sum(x), X, W)
    assert "mul" in {some.nodes[p.node].name for p in some.opened}


def test_integers_do_not_pass_open_sums():
    some = graph(lambda x, w: -(x @ w), array(8, 16, dtype=jnp.int32), array(16, 8, dtype=jnp.int32))
    assert {some.nodes[p.node].name for p in some.opened} == {"dot_general"}


def test_one_gathered_copy_for_query_gate_and_up():
    def fun(x, q, gate, up):
        y = jnp.tanh(x)
        return y @ q, y @ gate, y @ up

    some = graph(fun, X, W, W, W)
    (copy,) = of_role(some, "copy")
    assert readers(some, copy) == named(some, "dot_general")
    assert readers(some, named(some, "tanh")[0]) == [copy]
    assert not of_role(some, "value")


def test_one_matmul_reads_directly():
    some = graph(lambda x, w: jnp.tanh(x) @ w, X, W)
    assert not of_role(some, "copy") and not of_role(some, "value")


def test_elementwise_readers_need_no_copy():
    some = graph(lambda x: jnp.exp(jnp.tanh(x)) + jnp.sin(jnp.tanh(x)), X)
    assert not of_role(some, "copy")


def test_the_copy_stands_where_it_is_first_read_and_runs_as_often():
    def fun(x, w):
        return lax.scan(lambda c, _: ((c @ w) @ w, None), x, None, length=3)[0]

    some = graph(fun, X, array(16, 16))
    (copy,) = of_role(some, "copy")
    dots = named(some, "dot_general")
    assert some.nodes[copy].trips == 3
    assert some.nodes[copy].time == min(some.nodes[n].time for n in dots)
    assert [e.source for e in some.edges if e.target == copy] == [Port(n) for n in of_role(some, "const")]


def test_an_open_sum_with_two_readers_is_closed_once():
    some = graph(lambda x, w: (lambda y: (jnp.tanh(y), jnp.exp(y)))(x @ w), X, W)
    (value,), (dot,) = of_role(some, "value"), named(some, "dot_general")
    assert readers(some, dot) == [value]
    assert sorted(readers(some, value)) == sorted(named(some, "tanh") + named(some, "exp"))
    assert Port(value) in some.opened
    assert some.nodes[value].time == some.nodes[dot].time


def test_an_open_sum_with_two_readers_is_closed_before_it_is_widened():
    def fun(x, w):
        y = x @ w
        z = y.astype(jnp.float32)
        return y + 1, z - jnp.mean(z, -1, keepdims=True)

    narrow, weight = array(8, 16, dtype=jnp.bfloat16), array(16, 32, dtype=jnp.bfloat16)
    some = graph(fun, narrow, weight)
    (value,) = of_role(some, "value")
    (wide,) = named(some, "convert_element_type")
    assert Port(value) in some.opened and readers(some, wide) != of_role(some, "value")
    assert not {"convert_element_type", "sub"} & {some.nodes[p.node].name for p in some.opened}
    assert Port(wide) not in buffers(some).stored


def test_an_open_sum_with_one_reader_may_be_widened():
    some = graph(lambda x, w: jnp.sum((x @ w).astype(jnp.float32), -1), *(array(8, 8, dtype=jnp.bfloat16),) * 2)
    assert "convert_element_type" in {some.nodes[p.node].name for p in some.opened}


def test_an_open_sum_with_one_reader_is_closed_on_its_edge():
    assert not of_role(graph(lambda x, w: jnp.tanh(x @ w), X, W), "value")


def test_a_maximum_is_closed_where_it_stands():
    some = graph(lambda x: jnp.exp(jnp.max(x, 0)), X)
    (value,) = of_role(some, "value")
    assert readers(some, named(some, "reduce_max")[0]) == [value]
    assert Port(value) not in some.opened


def test_every_operand_has_one_edge():
    def fun(x, w):
        y = x @ w
        return (y * y) @ w.T + (y - y) @ w.T

    some = graph(fun, X, W)
    ends = [(e.target, e.operand) for e in some.edges]
    assert len(set(ends)) == len(ends)
    (mul,) = named(some, "mul")
    assert sorted(op for target, op in ends if target == mul) == [0, 1]


def test_readers_come_in_program_order():
    some = graph(lambda x: (jnp.sin(x), jnp.cos(x), jnp.tan(x)), X)
    edges = some.readers[Port(some.inputs[0])]
    assert [some.nodes[e.target].name for e in edges] == ["sin", "cos", "tan"]
