import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from graphs import array, graph, named, of_role, program, readers
from jax import lax
from jax.sharding import PartitionSpec as P

from passes.jaxpr import subjaxprs
from planner.build import CALLS, Pins, build_graph
from planner.graph import Port
from planner.loops import LOOPS

X = array(8, 8)


def leaves(jaxpr, path=()):
    """Paths of the equations that are no calls and no loops, by a walk of their own."""
    for i, eqn in enumerate(jaxpr.eqns):
        here = (*path, i)
        if eqn.primitive.name in (*CALLS, *LOOPS):
            for key, inner in subjaxprs(eqn):
                yield from leaves(inner, (*here, key))
        else:
            yield here


@pytest.mark.parametrize("fun", programs.ALL, ids=lambda f: f.__name__)
def test_every_equation_is_one_node(fun):
    traced = program(fun, X)
    some = build_graph(traced.closed, traced.names, traced.ties())
    ops = [n.path for n in some.nodes if n.role == "op"]
    assert sorted(map(str, ops)) == sorted(map(str, leaves(traced.closed.jaxpr)))


@pytest.mark.parametrize("fun", programs.ALL, ids=lambda f: f.__name__)
def test_edges_fit_their_ends(fun):
    some = graph(fun, X)
    for edge in some.edges:
        target = some.nodes[edge.target]
        aval = some.aval(edge.source)
        assert len(target.rule.operands[edge.operand]) == len(aval.shape)
        steps = 1 if target.role == "slice" else 0  # the dim of the steps has no factor
        for dim, size in [*zip(target.rule.operands[edge.operand], aval.shape)][steps:]:
            assert int(np.prod([target.rule.sizes[f] for f in dim], initial=1)) == size


def test_trips_multiply():
    def fun(x):
        def inner(c, _):
            return jnp.sin(c), None

        def outer(c, _):
            return jnp.cos(lax.scan(inner, c, None, length=5)[0]), None

        return jnp.tan(lax.scan(outer, x, None, length=3)[0])

    some = graph(fun, X)
    trips = {name: some.nodes[named(some, name)[0]].trips for name in ("sin", "cos", "tan")}
    assert trips == {"sin": 15, "cos": 3, "tan": 1}


def test_a_carry_is_one_node_for_all_steps():
    some = graph(lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=7)[0], X)
    (carry,), (sin,) = of_role(some, "carry"), named(some, "sin")
    into = {e.source.node: e.trips for e in some.edges if e.target == carry}
    assert into == {some.inputs[0]: 1, sin: 7}
    assert set(readers(some, carry)) == {sin, some.outputs[0]}


def test_a_scan_slices_stacks_and_closes_over():
    def fun(w, xs):
        return lax.scan(lambda c, x: (c, x @ w), 0.0, xs)[1]

    some = graph(fun, array(8, 4), array(5, 3, 8))
    (const,), (cut,), (stack,) = (of_role(some, r) for r in ("const", "slice", "stack"))
    assert some.nodes[cut].avals[0].shape == (3, 8)
    assert some.nodes[stack].avals[0].shape == (5, 3, 4)
    assert some.nodes[cut].rule.operands[0][0] == some.nodes[stack].rule.results[0][0] == ()  # whole over the steps
    (dot,) = named(some, "dot_general")
    assert [e.source.node for e in some.edges if e.target == dot] == [cut, const]
    assert some.nodes[const].time < some.nodes[dot].time <= some.nodes[const].end == some.nodes[cut].end
    (loop,) = some.loops
    assert loop.results[-1] == stack and {const, cut} <= set(loop.operands)


def test_a_closed_over_array_comes_before_the_arguments():
    table = np.arange(8, dtype=np.float32)
    some = graph(lambda x: jnp.sin(x) + jnp.asarray(table), array(4, 8))
    names = [some.nodes[n].name for n in of_role(some, "input")]
    assert [some.nodes[n].name for n in some.inputs] == ["x"]
    assert len(names) in (1, 2)  # the constant is a literal in some JAX versions
    for n in set(of_role(some, "input")) - set(some.inputs):
        assert some.nodes[n].rule.whole == frozenset({0})


def test_an_unknown_trip_count_is_noted():
    some = graph(programs.while_, X)
    (note,) = some.notes
    assert "unknown trip count" in note and "programs.py:" in note
    assert {n.trips for n in some.nodes} == {1}


def test_an_unknown_primitive_is_noted_with_its_line_and_stays_whole():
    some = graph(programs.effects, X)
    (note,) = [n for n in some.notes if "debug_callback" in n]
    assert "no rule" in note and "programs.py:" in note and "register" in note
    (op,) = named(some, "debug_callback")
    rule = some.nodes[op].rule
    assert rule.splittable() == () and rule.flops * np.prod(rule.sizes) == 10


def test_branches_meet_in_one_place():
    some = graph(programs.cond, X)
    (neg,), (mul,) = named(some, "neg"), named(some, "mul")
    (place,) = set(readers(some, neg)) & set(readers(some, mul))
    assert readers(some, place) == [some.outputs[0]]
    assert some.nodes[place].role == "join"


def test_donated_state_is_one_node():
    def fun(cache, row):
        return lax.dynamic_update_slice(cache, row, (0, 0)), jnp.sum(row)

    args = array(16, 8), array(1, 8)
    kept, given = graph(fun, *args), graph(fun, *args, donate_argnums=0)
    assert kept.outputs[0] not in kept.inputs
    assert given.outputs[0] == given.inputs[0]
    (update,) = named(given, "dynamic_update_slice")
    assert [e.source for e in given.edges if e.target == given.inputs[0]] == [Port(update)]
    assert given.nodes[given.outputs[1]].role == "output"


def test_dead_code_is_gone():
    some = graph(lambda x: (jnp.exp(x), jnp.sin(x))[1], X)
    assert not named(some, "exp")


def test_arguments_bear_their_names():
    some = graph(lambda params, x: x @ params["w"] + params["b"], {"w": array(8, 4), "b": array(4)}, X)
    assert [some.nodes[n].name for n in some.inputs] == ["params['b']", "params['w']", "x"]


def test_operations_know_their_source_line():
    some = graph(programs.flat, X)
    assert all("programs.py:" in some.nodes[n].source for n in named(some, "tanh"))


def test_the_users_specs_are_pins():
    traced = program(lambda x: lax.with_sharding_constraint(jnp.sin(x), P("x")) * 2, X)
    some = build_graph(traced.closed, traced.names, {}, Pins((P("y"),), (P(None, "x"),)))
    assert some.nodes[some.inputs[0]].pin == P("y")
    assert some.nodes[some.outputs[0]].pin == P(None, "x")
    (constraint,) = named(some, "sharding_constraint")
    assert tuple(some.nodes[constraint].pin or ())[:1] == ("x",)


def test_a_result_that_is_a_literal():
    some = graph(lambda x: (x, jnp.float32(3.0)), X)
    assert len(some.outputs) == 2


def test_calls_leave_no_node():
    some = graph(jax.jit(jax.checkpoint(jax.jit(jnp.sin))), X)
    assert [n.name for n in some.nodes if n.role == "op"] == ["sin"]
