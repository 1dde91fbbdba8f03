"""The integer program against costs written down by hand, over every choice of a small program."""

from dataclasses import replace
from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest
from graphs import PLAIN, abstract_mesh, apart, array, bits, formulated, graph, model, named, of_role, program, shape_of
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P

from planner.build import Pins, build_graph
from planner.cost.hardware import Chip, Fabric, Machine
from planner.cost.model import RELAID
from planner.errors import SpecConflictError
from planner.formulate import formulate
from planner.solve import evaluate, peak, solve
from planner.strategy import NO_RING, enumerate_strategies
from planner.work import summed_bytes

LINE = abstract_mesh(2)
B, E, F = 16, 64, 32
SHAPES = {"x": (B, E), "v": (E, F), "h": (B, F), "w": (F, E), "y": (B, E)}
OPEN, WHOLE = "open", None
MATMULS = {  # job of the axis → where it splits lhs, rhs, result
    "-": (WHOLE, WHOLE, WHOLE),
    "m": (0, WHOLE, 0),
    "k": (1, 0, OPEN),
    "n": (WHOLE, 1, 1),
}
ELEMENTWISE = {"-": WHOLE, "m": 0, "n": 1}


def mlp(x, v, w):
    return jnp.tanh(x @ v) @ w


def machine(flops=1e9, memory=1e9, link=1e8, hop=1e-7):
    return Machine("by hand", Chip("by hand", {"float32": flops}, 1e9, memory), Fabric(link, hop, torus=1))


def nbytes(name, split):
    return 4 * np.prod(SHAPES[name]) / (2 if split in (0, 1) else 1)


def move(chip, fabric, name, a, b):
    """Seconds from one place of the only axis, of size 2, to another; what changes its dim is laid out anew."""
    whole = 4 * np.prod(SHAPES[name])
    if a == b or (a is WHOLE and b != OPEN):
        return 0.0
    if b == OPEN:
        return np.inf
    gather = whole / 2 / fabric.link + fabric.hop
    if a == OPEN:
        return 2 * gather if b is WHOLE else gather
    return gather if b is WHOLE else whole / 2 / 2 / fabric.link + fabric.hop + RELAID * whole / 2 / chip.hbm_bandwidth


def by_hand(hardware, choice):
    """Seconds of one choice: where the axis splits x, v, w; its job in the three operations; where it splits y."""
    chip, fabric = hardware.chip, hardware.fabric
    x, v, w, y = (PLACES[choice[i]] for i in (0, 1, 2, 6))
    first, act, second = choice[3:6]
    (a, b, c), d, (e, f, g) = MATMULS[first], ELEMENTWISE[act], MATMULS[second]

    def local(flops, job, *values):
        share = 1 if job == "-" else 2
        return np.hypot(flops / share / chip.rate("float32"), sum(values) / chip.hbm_bandwidth)

    work = local(2 * B * E * F, first, nbytes("x", a), nbytes("v", b), nbytes("h", c))
    work += local(10 * B * F, act, nbytes("h", d), nbytes("h", d))
    work += local(2 * B * E * F, second, nbytes("h", e), nbytes("w", f), nbytes("y", g))
    work += 2 * nbytes("y", y) / chip.hbm_bandwidth if g is WHOLE and y is not WHOLE else 0  # cut out: read and written
    work += 2 * nbytes("y", y) / chip.hbm_bandwidth if g == 1 and y is WHOLE else 0  # so is what columns arrive as
    hops = [("x", x, a), ("v", v, b), ("h", c, d), ("h", d, e), ("w", w, f), ("y", g, y)]
    return work + sum(move(chip, fabric, *hop) for hop in hops)


PLACES = {"-": WHOLE, "0": 0, "1": 1}
CHOICES = list(product("-01", "-01", "-01", MATMULS, ELEMENTWISE, MATMULS, "-01"))


def index(formulation, choice):
    """The choice as the integer program has it."""
    some = formulation.graph
    x, v, w = some.inputs
    (act,), (first, second), (y,) = named(some, "tanh"), named(some, "dot_general"), some.outputs
    places, letters = {"-": -1, "0": 0, "1": 1}, {"-": -1, "m": 0, "k": 1, "n": 2}
    jobs = dict(zip((x, v, w, y), (places[choice[i]] for i in (0, 1, 2, 6))))
    jobs |= {first: letters[choice[3]], second: letters[choice[5]], act: {"-": -1, "m": 0, "n": 1}[choice[4]]}
    rows = (np.flatnonzero(formulation.strategies[n].jobs[:, 0] == jobs[n]) for n in range(len(some.nodes)))
    return [int(row) for (row,) in rows]


def costs(hardware):
    return [by_hand(hardware, choice) for choice in CHOICES]


ARGS = [array(*SHAPES[name]) for name in "xvw"]


def test_every_choice_of_an_mlp_costs_what_it_should():
    hardware = machine()
    formulation = formulated(mlp, *ARGS, mesh=LINE, machine=hardware, prices=apart(LINE, hardware))
    assert len(formulation.graph.nodes) == 7
    found = [evaluate(formulation.problem, index(formulation, c)) for c in CHOICES]
    np.testing.assert_allclose(found, costs(hardware), rtol=1e-4)  # storage is a hair more


magnitude = st.floats(7, 11).map(lambda e: 10**e)


@settings(max_examples=12)
@given(magnitude, magnitude, magnitude, st.sampled_from([0.0, 1e-7, 1e-5]), st.sampled_from("-01"))
def test_the_optimum_is_the_best_of_all_choices(flops, memory, link, hop, y):
    hardware = machine(flops, memory, link, hop)
    problem = wanted(hardware, y).problem
    solution = solve(problem)
    assert solution.status == "optimal"
    assert solution.seconds == pytest.approx(best(hardware, y), rel=1e-4)


def wanted(hardware, y):
    """The result pinned, so that not everything can split the batch for nothing."""
    return pinned(
        mlp, (None,) * 3, ({"-": P(), "0": P("x"), "1": P(None, "x")}[y],), *ARGS, hardware=hardware, price=apart
    )


def best(hardware, y):
    return min(cost for cost, choice in zip(costs(hardware), CHOICES) if choice[6] == y)


@pytest.mark.parametrize(("link", "devices"), [(1e12, 2), (1e3, 1)])
def test_a_slow_link_makes_devices_repeat_the_last_matmul(link, devices):
    """Else the comparison above says little."""
    f = wanted(machine(link=link), "-")
    last = named(f.graph, "dot_general")[-1]
    assert f.strategies[last].devices[solve(f.problem).choice[last]] == devices


def test_a_slice_is_free_only_where_the_reader_cuts_as_it_reads():
    """A table that is whole on every device: a matmul or an elementwise chain reads its part, a gather needs a copy."""

    def cut(fun):
        f = formulated(fun, array(B, E), array(E, F), mesh=LINE, machine=machine(), prices=apart(LINE, machine()))
        (e,) = [i for i, e in enumerate(f.graph.edges) if e.source.node == f.graph.inputs[1]]
        link, cost = f.links[e], f.problem.edges[e].cost
        return {tuple(t): cost[link.sources.any(1).argmin(), j] for j, t in enumerate(link.targets.tolist())}

    seconds = 2 * 4 * E * F / 2 / machine().chip.hbm_bandwidth
    assert set(cut(lambda x, w: x @ w).values()) == {0.0}
    assert set(cut(lambda x, w: x @ jnp.tanh(w)).values()) == {0.0}
    looked_up = cut(lambda x, w: w.at[x[:, 0].astype(int)].get(mode="clip"))
    assert looked_up == {(0, 0, 0): 0.0, (1, 0, 0): pytest.approx(seconds), (0, 1, 0): pytest.approx(seconds)}


def test_a_slice_for_a_collective_is_read_and_written():
    """Of weights that x splits, whole along y: a matmul cuts its part as it reads, an exchange has it cut before."""
    grid = abstract_mesh(2, 2)
    f = formulated(jnp.matmul, array(B, E), array(E, F), mesh=grid, machine=machine(), prices=apart(grid, machine()))
    (e,) = [i for i, e in enumerate(f.graph.edges) if e.source.node == f.graph.inputs[1]]
    link, cost = f.links[e], f.problem.edges[e].cost
    source = link.sources.tolist().index([1, 0, 0])
    found = {tuple(t[:2]): cost[source, j] for j, t in enumerate(link.targets.tolist())}
    seconds = 2 * 4 * E * F / 4 / machine().chip.hbm_bandwidth
    half, quarter = (
        model(grid, machine()).collective("all_to_all", np.array(4 * E * F / n), np.array(1)) for n in (2, 4)
    )
    assert found[1, 0] == found[3, 0] == 0
    assert found[0, 1] == found[2, 1] == pytest.approx(float(half))  # y may come to rows only when x has left them
    assert found[0, 3] == pytest.approx(float(quarter) + seconds)


def limited(limit, fun=mlp, args=ARGS, mesh=LINE):
    return formulated(fun, *args, mesh=mesh, limit=limit).problem


def test_memory_rows_hold():
    total = sum(4 * np.prod(SHAPES[n]) for n in SHAPES)
    for share in (1.0, 0.8, 0.6):
        problem = limited(share * total)
        solution = solve(problem)
        assert solution.status == "optimal"
        assert peak(problem, solution.choice) <= share * total
    loose, tight = (solve(limited(share * total)).seconds for share in (1.0, 0.6))
    assert loose < tight


def test_too_little_memory_is_said_in_bytes():
    """All three arguments live as long as the program, at least half of each on a device."""
    least = sum(nbytes(n, 0) for n in "xvw")
    solution = solve(limited(least / 2))
    assert solution.status == "infeasible"
    assert solution.excess == pytest.approx(peak(limited(least / 2), solution.choice) - least / 2)
    assert solution.excess >= least / 2


def test_the_peak_of_a_whole_mlp():
    """Arguments, and a matmul's other operand and result; the result lies where it was made."""
    problem = limited(1e12)
    formulation = formulated(mlp, *ARGS, mesh=LINE)
    whole = index(formulation, "-------")
    held = {name: nbytes(name, WHOLE) for name in SHAPES}
    args = held["x"] + held["v"] + held["w"]
    assert peak(problem, whole) == args + max(held["h"] + held["h"], held["h"] + held["y"])


def test_a_stack_gathered_before_its_loop_takes_all_of_its_memory_as_it_comes_and_as_trips_slice_it():
    steps, n = 6, 64

    def fun(ws, x):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0]

    formulation = formulated(fun, array(steps, n, n), array(8, n), mesh=LINE)
    some, problem = formulation.graph, formulation.problem
    (cut,) = of_role(some, "slice")
    (edge,) = [e for e in problem.edges if e.v == cut]
    i = next(i for i, e in enumerate(problem.edges) if e is edge)
    sources, targets = formulation.links[i].sources, formulation.links[i].targets
    table = edge.usage
    assert table is not None
    for r, source in enumerate(sources):
        for c, target in enumerate(targets):
            gathered = bits(source) != bits(target) and any(source) and not any(target)
            copies = 2 if any(source[1:-1]) else 1
            assert table[r, c] == copies * 4 * steps * n * n or not gathered
    assert any(i in live.edges and named(some, "dot_general")[0] in live.nodes for live in problem.live.sets)


def test_branch_results_do_not_hide_the_memory_of_an_argument():
    formulation = formulated(lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: x, x), array(64), mesh=LINE)
    whole = [int(np.flatnonzero((s.jobs == -1).all(1))[0]) for s in formulation.strategies]
    assert peak(formulation.problem, whole) >= 2 * 4 * 64


def test_trips_multiply_work_and_what_moves_inside():
    def fun(x, w, steps):
        return lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=steps)[0]

    one, many = (formulated(lambda x, w, n=n: fun(x, w, n), array(8, 8), array(8, 8), mesh=LINE) for n in (1, 5))
    (a,), (b,) = named(one.graph, "dot_general"), named(many.graph, "dot_general")
    np.testing.assert_allclose(many.problem.cost[b], 5 * one.problem.cost[a], rtol=1e-6)
    inside = [(e, f) for e, f in zip(one.problem.edges, many.problem.edges) if e.u == a]
    (carry,) = of_role(many.graph, "carry")
    into = next(i for i, e in enumerate(many.graph.edges) if e.target == carry and e.source.node in many.graph.inputs)
    assert inside
    for e, f in inside:
        np.testing.assert_allclose(f.cost, 5 * e.cost)
    np.testing.assert_allclose(many.problem.edges[into].cost, one.problem.edges[into].cost)


def pinned(fun, ins, outs, *args, mesh=LINE, hardware=PLAIN, price=model):
    traced = program(fun, *args)
    some = build_graph(traced.closed, traced.names, {}, Pins(ins, outs))
    return formulate(some, shape_of(mesh), price(mesh, hardware), hardware.chip, 1e12)


def test_a_pin_leaves_the_strategies_that_show_it():
    f = pinned(jnp.sin, (P("x", "y"),), (None,), array(8, 8), mesh=abstract_mesh(2, 2))
    (row,) = f.strategies[f.graph.inputs[0]].result(0)
    assert bits(row) == (1, 2, 0)


def test_an_unconstrained_dim_is_left_to_the_planner():
    f = pinned(jnp.sin, (P("x", P.UNCONSTRAINED),), (None,), array(8, 8), mesh=abstract_mesh(2, 2))
    rows = f.strategies[f.graph.inputs[0]].result(0)
    assert {bits(r) for r in rows} == {(1, 0, 0), (1, 2, 0)}


def test_a_pin_that_does_not_divide():
    with pytest.raises(SpecConflictError, match=r"float32\[7\].*mesh x=2.*divide"):
        pinned(jnp.sin, (P("x"),), (None,), array(7))


def test_equal_edges_share_their_tables():
    def fun(x, w):
        return lax.fori_loop(0, 1, lambda _, c: c, jnp.tanh(jnp.tanh(x @ w) @ w) @ w)

    f = formulated(fun, array(8, 8), array(8, 8), mesh=LINE)
    dots = named(f.graph, "dot_general")
    tables = [link.seconds for link, e in zip(f.links, f.graph.edges) if e.target in dots and e.operand == 0]
    assert len({id(t) for t in tables}) < len(tables)


def test_a_sum_may_stay_open_through_an_add():
    """Two products that are summed over the axis need one reduction, not two."""

    def fun(a, b, v, w):
        return jnp.tanh(a @ v + b @ w)

    split = (P(None, "x"), P(None, "x"), P("x"), P("x"))
    f = pinned(fun, split, (P(),), array(8, 64), array(8, 64), array(64, 8), array(64, 8))
    choice = solve(f.problem).choice
    (add,), dots = named(f.graph, "add"), named(f.graph, "dot_general")
    assert all(f.strategies[n].result(0)[choice[n], -1] for n in (*dots, add))
    closing = [e for e in f.graph.edges if f.strategies[e.source.node].result(0)[choice[e.source.node], -1]]
    closed = [e for e in closing if not f.strategies[e.target].operand(e.operand)[choice[e.target], -1]]
    assert [e.source.node for e in closed] == [add]


def test_the_graph_is_kept():
    f = formulated(mlp, *ARGS, mesh=LINE)
    assert f.graph == graph(mlp, *ARGS)
    assert len(f.links) == len(f.graph.edges) == len(f.problem.edges)


STEPS = 4
X, V, Y, KEPT, SUMMED = 4 * 16 * 64, 4 * 64 * 32, 4 * 16 * 32, 0, 1
"""Bytes of both operands and of the result, and the factors of x."""


def ring_seconds(wraps, launch=0.0, on_chip=0.0, **fast):
    """For each ring of `x @ v` over an axis of four what it takes, and seconds of a chunk's hop per byte."""
    hardware, four = machine(**fast), abstract_mesh(STEPS)
    hardware = replace(
        hardware,
        chip=replace(hardware.chip, overhead=launch, on_chip=on_chip),
        fabric=replace(hardware.fabric, wraps=wraps),
    )
    f = formulated(lambda x, v: x @ v, array(16, 64), array(64, 32), mesh=four, machine=hardware)
    (dot,) = named(f.graph, "dot_general")
    return {tuple(ring): cost for ring, cost in zip(f.strategies[dot].rings.tolist(), f.problem.cost[dot])}


@pytest.mark.parametrize(("wraps", "reach", "waits"), [(0, 2, 3), (4, 1, 2)], ids=["a row", "closed"])
def test_a_chunk_that_takes_longer_than_a_product_holds_up_the_next(wraps, reach, waits):
    """On a row, walked by every other place and back, both ways take turns; closed, both have wires of their own."""
    found = ring_seconds(wraps, launch=1e-6, flops=6e8)
    step = np.hypot(2 * 16 * 64 * 32 / STEPS / 6e8, (X + V + Y / STEPS) / 1e9) / STEPS + 1e-6
    send = X / STEPS / 1e8 + reach * 1e-7 + 1e-6
    assert send > step
    np.testing.assert_allclose(found[0, KEPT, 1], STEPS * step + waits * (send - step), rtol=1e-3)


def test_a_product_of_a_ring_takes_as_long_as_its_flops_and_bytes():
    """The weight is read in every step, unless its rows are in chunks: then the sum is read and written in three."""
    flops = 2 * 16 * 64 * 32 / STEPS
    found = ring_seconds(0, flops=3e8, link=4e8)
    kept, summed = ((X + weight + Y / STEPS) / 1e9 for weight in (STEPS * V / STEPS, V / STEPS))
    assert found[0, KEPT, 1] == pytest.approx(np.hypot(flops / 3e8, kept), rel=1e-3)
    assert found[0, SUMMED, 1] == pytest.approx(np.hypot(flops / 3e8, summed) + 2 * 3 * Y / STEPS / 1e9, rel=1e-3)


def test_what_is_fetched_before_the_first_product_hides_no_permute():
    """The weight, which every product would read, is fetched once; what is left of a step hides what it can."""
    found = ring_seconds(4, on_chip=1e6, flops=6e8)
    flops = 2 * 16 * 64 * 32 / STEPS / 6e8 / STEPS
    step, beside = (np.hypot(flops, nbytes / 1e9 / STEPS) for nbytes in (X + V / STEPS + Y / STEPS, X + Y / STEPS))
    send = X / STEPS / 1e8 + 1e-7
    assert send > beside
    np.testing.assert_allclose(found[0, KEPT, 1], STEPS * step + 2 * (send - beside), rtol=1e-3)


@pytest.mark.parametrize(("steps", "passes"), [(2, 3), (4, 3.5), (8, 13.5)])
def test_sums_that_travel_are_added_apart(steps, passes):
    f = formulated(lambda x, v: x @ v, array(16, 64), array(64, 32), mesh=abstract_mesh(steps))
    (dot,) = named(f.graph, "dot_general")
    every = enumerate_strategies(f.graph.nodes[dot].rule, f.mesh, rings=True)
    found = summed_bytes(f.graph.nodes[dot], every)
    scattered = every.rings[:, 0] == 2
    assert scattered.any() and (found[scattered] == passes * Y / steps).all()
    assert (found[every.rings[:, 0] == NO_RING] == 0).all()


def test_rings_that_do_not_pay_are_no_strategies():
    """One step's hop takes longer than all of the work."""
    f = formulated(mlp, *ARGS, mesh=LINE, machine=machine(flops=1e15, memory=1e15, hop=1.0))
    assert all((s.rings[:, 0] == NO_RING).all() for s in f.strategies)


@pytest.mark.parametrize("dtype, nbytes", [(jnp.bfloat16, 4), (jnp.float32, 4 / 0.8)])
def test_elementwise_work_moves_words_or_what_memory_has_of_them(dtype, nbytes):
    hardware = replace(PLAIN, chip=replace(PLAIN.chip, hbm_share=0.8, word=4))
    f = formulated(jnp.sin, array(1024, dtype=dtype), mesh=LINE, machine=hardware)
    (sin,) = named(f.graph, "sin")
    flops = f.graph.nodes[sin].rule.flops * 1024 / 1e12
    assert f.problem.cost[sin].max() == pytest.approx(np.hypot(flops, 2 * 1024 * nbytes / hardware.chip.hbm_bandwidth))


def test_operations_of_one_shape_have_prices_of_their_own():
    f = formulated(lambda x: (jnp.sin(x), jnp.abs(x)), array(1024), mesh=LINE)
    (sin,), (plain,) = named(f.graph, "sin"), named(f.graph, "abs")
    assert f.graph.nodes[sin].rule.flops > f.graph.nodes[plain].rule.flops
    assert f.problem.cost[sin].max() > f.problem.cost[plain].max()


def test_what_is_gathered_between_fused_operations_is_written_and_read():
    f = formulated(lambda x: jnp.cos(jnp.sin(x)), array(1024), mesh=LINE)
    (sin,), (cos,) = named(f.graph, "sin"), named(f.graph, "cos")
    (edge,) = (e for e in f.problem.edges if (e.u, e.v) == (sin, cos))
    gather = model(LINE).collective("all_gather", np.asarray(4 * 1024.0), np.asarray(1))
    assert edge.cost.max() == pytest.approx(gather + 4 * (512 + 1024) / PLAIN.chip.hbm_bandwidth)
