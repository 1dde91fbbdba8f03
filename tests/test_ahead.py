"""Gathers that start before what reads them, and how much of them hides."""

from dataclasses import replace

import jax.numpy as jnp
import pytest
from graphs import PLAIN, abstract_mesh, array, formulated, graph, model, shape_of
from jax import lax

import planner
from planner.ahead import hidden

MESH = abstract_mesh(8)
AHEAD = replace(PLAIN, chip=replace(PLAIN.chip, ahead=0.75))
WEIGHTS = array(4, 64, 64)


def layers(ws, x):
    """A narrow copy of the weights is computed on the fly, the carry is late."""
    return lax.scan(lambda x, w: (jnp.tanh(x @ (w * 0.5)), None), x, ws)[0]


def shares(fun, *args):
    some = graph(fun, *args)
    found = hidden(some, shape_of(MESH), model(MESH), 0.75)
    return some, {
        (some.nodes[some.edges[i].source.node].name, some.nodes[some.edges[i].target].name): s for i, s in found.items()
    }


def test_what_a_trip_has_from_its_start_is_gathered_ahead():
    _, found = shares(layers, WEIGHTS, array(1 << 20, 64))
    assert found == {("loop input", "mul"): 0.75, ("mul", "dot_general"): 0.75}


def test_less_hides_where_there_is_less_to_compute():
    """Half of the rows, half of the share, once gathers take longer than matmuls."""
    few, fewer = (set(shares(layers, WEIGHTS, array(rows, 64))[1].values()) for rows in (512, 256))
    assert 0 < max(few) < 0.75
    assert max(few) == pytest.approx(2 * max(fewer))


def test_nothing_is_carried_past_a_loop_within_nor_out_of_one():
    def nested(ws, x):
        return lax.fori_loop(0, 3, lambda _, x: layers(ws, x), x)

    _, found = shares(nested, WEIGHTS, array(1 << 20, 64))
    assert set(found) == {("loop input", "mul"), ("mul", "dot_general")}
    assert shares(lambda w, x: x @ w, array(64, 64), array(1 << 20, 64))[1] == {}


def test_what_hides_costs_nothing_and_the_plan_says_so():
    args = WEIGHTS, array(1 << 14, 64)
    waits, hides = (formulated(layers, *args, mesh=MESH, machine=machine) for machine in (PLAIN, AHEAD))
    for i, (a, b) in enumerate(zip(waits.problem.edges, hides.problem.edges)):
        assert (b.cost <= a.cost).all()
        assert (b.cost < a.cost).any() == (i in hides.hidden)
    plans = [planner.make_plan(layers, *args, mesh=MESH, machine=machine, known=False) for machine in (PLAIN, AHEAD)]
    for plan in plans:
        total = sum(op.seconds for op in plan.operations) + sum(c.seconds for c in plan.collectives)
        assert total == pytest.approx(plan.seconds, rel=1e-3)


def test_where_compilers_hide_gathers():
    found = {name: machine.chip.ahead for name, machine in planner.PRESETS.items() if machine.chip.ahead}
    assert found == {"tpu-v4": 0.5, "tpu-v5e": 0.8}


def test_the_shorter_gathers_hide_first():
    """What is saved for a gradient is large beside weights: it takes the time that they leave."""

    def trip(x, given):
        w, kept = given
        return jnp.tanh(x @ w) + jnp.sin(kept) @ w, None

    def trips(ws, saved, x):
        return lax.scan(trip, x, (ws, saved))[0]

    rows = 1 << 16
    some = graph(trips, WEIGHTS, array(4, rows, 64), array(rows, 64))
    found = hidden(some, shape_of(MESH), model(MESH), 0.75)
    weights, large = (
        {s for i, s in found.items() if some.aval(some.edges[i].source).shape == shape}
        for shape in ((64, 64), (rows, 64))
    )
    assert weights == {0.75}
    assert len(large) == 1 and 0 < max(large) < 0.75
