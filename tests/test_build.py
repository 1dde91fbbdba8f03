import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from foreign import mystery, smoothed
from graphs import abstract_mesh, array, graph, named, of_role, program, readers
from jax import lax
from jax.sharding import PartitionSpec as P

from passes.jaxpr import subjaxprs
from planner.build import CALLS, Pins, build_graph
from planner.errors import HintError
from planner.graph import Port
from planner.loops import LOOPS, SELDOM
from planner.sharding import MeshShape
from planner.strategy import given_strategy
from planner.trips import ESTIMATE

X = array(8, 8)


def leaves(jaxpr, path=()):
    """Paths of the equations that are no calls and no loops, by a walk of their own."""
    for i, eqn in enumerate(jaxpr.eqns):
        here = (*path, i)
        if eqn.primitive.name in (*CALLS, *LOOPS):
            bodies = subjaxprs(eqn)
            for key, inner in bodies[2:3] if eqn.primitive.name == "custom_linear_solve" else bodies:
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
    assert {n.trips for n in some.nodes} == {1, ESTIMATE}


def test_a_barrier_is_noted_with_its_line_and_stays_whole():
    some = graph(programs.effects, X)
    (note,) = some.notes
    assert "debug_callback at programs.py:" in note and "opaque" in note
    (op,) = named(some, "debug_callback")
    node = some.nodes[op]
    assert node.origin == "none" and node.rule.splittable() == () and node.rule.flops * np.prod(node.rule.sizes) == 10


def test_a_primitive_without_a_rule_of_ours_has_shardys():
    some = graph(lambda x: smoothed.bind(x), X)
    (note,) = some.notes
    assert "no rule for primitive 'smoothed' at test_build.py:" in note and "Shardy" in note and "register" in note
    node = some.nodes[named(some, "smoothed")[0]]
    assert node.origin == "shardy" and node.rule.sizes == (8, 8)
    assert node.rule.splittable() == (0,) and node.rule.whole == {1}  # a softmax divides by a sum over its last dim


def test_a_primitive_without_any_rule_is_replicated_and_noted():
    some = graph(lambda x: mystery.bind(x), X)
    (note,) = some.notes
    assert "no rule for primitive 'mystery' at test_build.py:" in note and "replicated" in note
    node = some.nodes[named(some, "mystery")[0]]
    assert node.origin == "none" and node.rule.splittable() == ()
    assert node.rule.flops * np.prod(node.rule.sizes) == 10 * 2 * 64


def test_a_region_of_the_user_has_one_strategy():
    specs = {"in_specs": (P("x", "y"), P("y")), "out_specs": P("x"), "check_vma": False}

    def fun(x, w):
        return jax.shard_map(lambda x, w: lax.psum(x @ w, "y"), mesh=abstract_mesh(2, 4), **specs)(x, w)

    some = graph(fun, X, X, on=abstract_mesh(2, 4))
    (note,) = some.notes
    assert "shard_map at test_build.py:" in note and "pins" in note
    node = some.nodes[named(some, "shard_map")[0]]
    assert node.given == {"x": 0, "y": 1} and node.rule.sizes[:2] == (2, 4)
    mesh = MeshShape(("x", "y"), (2, 4))
    only = given_strategy(node.rule, mesh, {"x": 0, "y": 1})
    assert len(only) == 1
    assert [only.operand(i).tolist() for i in range(2)] == [[[1, 2, 0]], [[2, 0, 0]]]
    assert only.result(0).tolist() == [[1, 0, 0]]
    assert node.rule.flops * only.local_sizes.prod() == 2 * 4 * 2 * 8 + 4 * 8  # a shard's matmul, and its psum


def test_a_region_on_another_mesh_takes_whole_values():
    traced = program(programs.shard_map, X)
    some = build_graph(traced.closed, traced.names, {}, mesh={"x": 2, "y": 4})
    node = some.nodes[named(some, "shard_map")[0]]
    assert node.given is None and node.rule.splittable() == ()
    assert "on a mesh {'x': 8} of its own" in some.notes[0]


def test_a_linear_solve_is_its_solve():
    some = graph(programs.linear_solve, X)
    assert [n.name for n in some.nodes if n.role == "op"] == ["div"] and not some.notes


def test_trips_are_what_the_user_says():
    some = graph(programs.while_, X, trips={"(while_)": 7})
    assert {n.trips for n in some.nodes} == {1, 7}
    assert some.notes == ("while loop at programs.py:49 (while_): 7 trips, as given",)


@pytest.mark.parametrize(
    ("start", "test", "step", "trips"),
    [
        (0, lambda i: i < 10, 1, 10),
        (3, lambda i: i <= 10, 2, 4),
        (9, lambda i: i > 0, -3, 3),
        (9, lambda i: i >= 0, -3, 4),
        (5, lambda i: i < 5, 1, 0),
    ],
)
def test_trips_are_counted_where_the_condition_says_them(start, test, step, trips):
    some = graph(lambda x: lax.while_loop(lambda c: test(c[0]), lambda c: (c[0] + step, jnp.sin(c[1])), (start, x)), X)
    assert not some.notes
    assert some.nodes[named(some, "sin")[0]].trips == trips


@pytest.mark.parametrize("step", [lambda i: i * 2 + 1, lambda i: i + i])
def test_trips_that_the_condition_does_not_say_are_estimated(step):
    some = graph(lambda x: lax.while_loop(lambda c: c[0] < 9, lambda c: (step(c[0]), jnp.sin(c[1])), (1, x)), X)
    assert some.nodes[named(some, "sin")[0]].trips == ESTIMATE and "unknown trip count" in some.notes[0]


def test_the_worst_branch_counts_in_full():
    some = graph(lambda p, x: lax.cond(p, lambda x: x @ x, jnp.sin, x), array(dtype=bool), X)
    trips = {name: some.nodes[named(some, name)[0]].trips for name in ("dot_general", "sin")}
    assert trips == {"dot_general": 1, "sin": SELDOM}
    assert "planned for the worst, number 1 of 2" in some.notes[0]


def test_branches_are_weighed_as_the_user_says():
    def fun(p, x):
        return lax.cond(p, lambda x: x @ x, jnp.sin, x)

    some = graph(fun, array(dtype=bool), X, weights={"(fun)": (0.9, 0.1)})
    trips = {name: some.nodes[named(some, name)[0]].trips for name in ("dot_general", "sin")}
    assert trips == {"dot_general": 0.1, "sin": 0.9}
    assert "0.9, 0.1, as given" in some.notes[0]


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"trips": {"nowhere.py": 3}}, "'nowhere.py' names no while loop .* there are: programs.py:49"),
        ({"trips": {"(while_)": -1}}, "not negative"),
        ({"trips": {"while_": 3, "programs": 4}}, "both name programs.py:49"),
        ({"weights": {"(while_)": (0, 0)}}, "one above 0"),
    ],
)
def test_hints_that_make_no_sense_are_refused(hints, message):
    with pytest.raises(HintError, match=message):
        graph(programs.while_, X, **hints)


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
