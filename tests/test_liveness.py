import jax
import jax.numpy as jnp
import pytest
from graphs import array, by_hand, graph, named, node, of_role
from jax import lax

from planner.graph import Port
from planner.liveness import buffers


def sets(some):
    """Nodes that are held together, where no other moment holds them all."""
    found = [set(live.nodes) for live in buffers(some).live.sets]
    return [s for s in found if not any(s < other for other in found)]


def test_a_chain_of_matmuls_holds_what_it_reads_and_writes():
    """in → a → b → c → out: at each step a value and its reader; the argument always; the result to the end."""
    chain = by_hand(
        [node("input", 1), node("op", 2), node("op", 3), node("op", 4), node("output", 5)],
        [(0, 1), (1, 2), (2, 3), (3, 4)],
        outputs=(4,),
    )
    assert sets(chain) == [{0, 1, 2}, {0, 2, 3}, {0, 3, 4}]


def test_state_whose_result_takes_its_place_stays():
    """The result is written where the argument lies, for all who read that are done."""
    some = by_hand([node("input", 1), node("op", 2), node("op", 3)], [(0, 1), (1, 2), (2, 0)], outputs=(0,))
    assert all(s == {0, 1} for s in sets(some))


def test_a_value_with_a_late_reader_is_held_until_then():
    diamond = by_hand(
        [node("input", 1), node("op", 2), node("op", 3), node("op", 4), node("op", 5)],
        [(0, 1), (1, 2), (2, 3), (1, 4), (3, 4)],
    )
    assert sets(diamond) == [{0, 1, 2, 3}, {0, 1, 3, 4}]


def test_elementwise_chains_hold_nothing_in_between():
    fused = by_hand(
        [node("input", 1), node("op", 2, fusible=True), node("op", 3, fusible=True), node("op", 4)],
        [(0, 1), (1, 2), (2, 3)],
    )
    found = buffers(fused)
    assert found.stored == {Port(0), Port(2), Port(3)}  # only what the matmul reads
    assert all(1 not in live.nodes for live in found.live.sets)


def test_a_fusible_value_that_goes_out_is_stored():
    some = graph(lambda x: jnp.sin(jnp.cos(x)), array(8, 8))
    stored = buffers(some).stored
    assert Port(named(some, "sin")[0]) in stored
    assert Port(named(some, "cos")[0]) not in stored


def test_a_value_read_by_a_matmul_and_a_sum_is_stored_once():
    some = graph(lambda x, w: (lambda y: (y @ w, y + 1.0))(jnp.sin(x)), array(8, 8), array(8, 8))
    assert Port(named(some, "sin")[0]) in buffers(some).stored


def narrow_weight(x, q):
    return x @ q.astype(x.dtype)


def converted(fun, x=jnp.float32, w=jnp.int8):
    """The graph of a function of an activation and a weight, and whether what is converted is stored."""
    some = graph(fun, array(8, 8, dtype=x), array(8, 8, dtype=w))
    return [Port(n) in buffers(some).stored for n in named(some, "convert_element_type")]


def test_a_matmul_widens_a_narrow_weight_while_it_reads_it():
    assert converted(narrow_weight) == converted(narrow_weight, w=jnp.bfloat16) == [False]


def test_slices_that_only_matmuls_read_hold_nothing():
    some = graph(lambda s, x: (x @ s[0], x @ s[1].T), array(2, 8, 8), array(4, 8))
    held = buffers(some)
    assert {some.nodes[n].name for n in held.cut} >= {"slice", "squeeze"}
    assert not any(Port(n) in held.stored for n in held.cut)
    assert not buffers(graph(lambda s, x: jnp.linalg.cholesky(s[0]) @ x, array(2, 8, 8), array(8, 4))).cut


def test_other_conversions_for_a_matmul_are_stored():
    assert converted(narrow_weight, x=jnp.bfloat16, w=jnp.float32) == [True]  # the copy is cheaper to read
    assert converted(lambda x, q: x @ jnp.sin(q).astype(x.dtype), w=jnp.bfloat16) == [True]  # nothing narrow is stored
    assert all(converted(lambda x, q: (lambda w: (x @ w, x @ w.T, w @ x))(q.astype(x.dtype))))  # shared by several
    assert all(converted(lambda x, q: (lambda w: (x @ w, w))(q.astype(x.dtype))))


def test_a_narrow_weight_lives_until_the_matmul_has_read_it():
    def fun(x, q):
        w = jnp.sort(q).astype(x.dtype)
        return jnp.tanh(jnp.tanh(x @ x) @ x) @ w

    some = graph(fun, array(8, 8), array(8, 8, dtype=jnp.int8))
    *_, dot = named(some, "dot_general")
    (narrow,) = named(some, "sort")
    now, *_ = [live.nodes for live in buffers(some).live.sets if dot in live.nodes]
    assert narrow in now


def looped(role):
    """A value enters a loop at time 2, is read at 3, and the loop ends at 6; other values follow at 5 and 7."""
    nodes = [node("op", 1), node(role, 2, end=6), node("op", 3), node("op", 5), node("op", 7)]
    return by_hand(nodes, [(0, 1), (1, 2), (2, 3), (3, 4)])


@pytest.mark.parametrize("role", ["const", "slice"])
def test_what_a_loop_reads_lives_until_its_end(role):
    """Also the copy that a reshard makes before the loop, though a step reads it early: the next one will again."""
    live = buffers(looped(role)).live.sets
    times = {3: {2}, 5: {2, 3}, 7: {3, 4}}
    for time, ops in times.items():
        (now,) = [s for s in live if s.label == f"line {time}"]
        assert ops <= set(now.nodes)
        assert (0 in now.nodes) == (0 in now.edges) == (time < 6)


def test_only_maximal_sets_are_kept():
    some = graph(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w) @ w, array(8, 8), array(8, 8))
    found = [set(s.nodes) | {-1 - e for e in s.edges} for s in buffers(some).live.sets]
    assert not any(a < b for a in found for b in found)
    assert len(found) > 1


def test_every_stored_value_lives_somewhere():
    some = graph(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w) @ w, array(8, 8), array(8, 8))
    found = buffers(some)
    assert {p.node for p in found.stored} == {n for s in found.live.sets for n in s.nodes}


def test_the_residuals_of_a_scan_are_held_as_stacks():
    """Backward through a scan needs what every step of the forward pass saw."""

    def loss(w, x):
        return jnp.sum(lax.scan(lambda c, _: (jnp.sin(c @ w), None), x, None, length=5)[0])

    some = graph(jax.grad(loss), array(8, 8), array(4, 8))
    stacks = [n for n in of_role(some, "stack") if some.nodes[n].avals[0].shape[0] == 5]
    assert stacks
    cuts = of_role(some, "slice")
    backward = [live for live in buffers(some).live.sets if set(cuts) & set(live.nodes)]
    read = {e.source.node for e in some.edges if e.target in cuts}
    assert any(read & set(stacks) & set(live.nodes) for live in backward)


@pytest.mark.parametrize("looped", [True, False], ids=["a loop reads it", "no loop"])
def test_a_loop_reads_a_copy_of_an_argument_whose_new_value_is_brought(looped):
    """The edge that brings it holds its bytes from the start, as the compiler copies the argument before the loop."""

    def step(ws, x):
        y = lax.scan(lambda x, w: (jnp.sin(x @ w), None), x, ws)[0] if looped else jnp.sin(x @ ws[0])
        return ws + jnp.sum(y), y

    some = graph(step, array(4, 8, 8), array(4, 8), donate_argnums=(0,))
    live, (brings,) = buffers(some).live, [i for i, e in enumerate(some.edges) if e.target == some.inputs[0]]
    ((start, stop),) = [(a, b) for n, a, b in zip(live.load, live.start, live.stop) if n == len(some.nodes) + brings]
    assert (start == 0) == looped
    assert stop == len(live.labels)


def test_live_sets_name_their_source_line():
    some = graph(lambda x, w: x @ w, array(8, 8), array(8, 8))
    assert any("test_liveness.py:" in live.label for live in buffers(some).live.sets)
