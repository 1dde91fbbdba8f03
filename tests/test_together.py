import itertools

import numpy as np
import pytest
from graphs import PLAIN, abstract_mesh, array, model, program, shape_of
from jax.sharding import PartitionSpec as P

from planner.build import Pins, build_graph
from planner.formulate import formulate
from planner.order import order_axes
from planner.solve import evaluate, floors, ready, solve
from planner.together import together

PLANE = abstract_mesh(2, 4)
XY, YX = P(("x", "y")), P(("y", "x"))


def formulated(fun, inputs, outputs, *shapes):
    traced = program(fun, *(array(*s) for s in shapes))
    graph = build_graph(traced.closed, traced.names, {}, Pins(inputs, outputs))
    return formulate(graph, shape_of(PLANE), model(PLANE), PLAIN.chip, 1e12)


def total(formulation, choice):
    return evaluate(formulation.problem, choice) + order_axes(formulation, choice, model(PLANE)).seconds


PROGRAMS = {
    "there and back": (lambda a: a + 1, (XY,), (YX,), (16, 8)),
    "reshape": (lambda a: a.reshape(128) + 1, (P("x", "y"),), (YX,), (16, 8)),
    "matmul": (lambda a, b: (a @ b) + 1, (P("x", "y"), P("y", "x")), (P("y"),), (16, 8), (8, 16)),
    "two readers": (lambda a: (a + 1, a * 2), (XY,), (P("y"), P("x")), (16, 8)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_is_chosen_together_is_the_best_of_all_choices(name):
    formulation = formulated(*PROGRAMS[name])
    choices = itertools.product(*(np.flatnonzero(np.isfinite(c)).tolist() for c in formulation.problem.cost))
    possible = [x for x in choices if np.isfinite(evaluate(formulation.problem, x))]
    best = min(total(formulation, x) for x in possible)
    made = ready(formulation.problem)
    given = solve(made)
    found = together(formulation, made, given, order_axes(formulation, given.choice, model(PLANE)), model(PLANE))
    assert total(formulation, found.choice) == pytest.approx(best) == pytest.approx(found.bound)
    assert total(formulation, found.choice) < total(formulation, given.choice) or name == "there and back"


def test_floors_are_below_every_choice_that_takes_a_strategy():
    formulation = formulated(*PROGRAMS["there and back"])
    least = floors(ready(formulation.problem), {})
    for choice in itertools.product(*map(range, map(len, formulation.problem.cost))):
        seconds = evaluate(formulation.problem, choice)
        assert all(floor[x] <= seconds * (1 + 1e-9) for floor, x in zip(least, choice))


def test_a_masked_strategy_has_no_floor():
    problem = formulated(*PROGRAMS["there and back"]).problem
    mask = np.arange(len(problem.cost[1])) == 0
    assert np.isinf(floors(ready(problem), {1: mask})[1][1:]).all()
