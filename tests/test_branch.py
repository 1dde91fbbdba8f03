from dataclasses import replace

import numpy as np
import pytest
from problems import brute, tiny

from planner.solve import Live, Problem, evaluate, peak, spans
from planner.solve.branch import minimise_within, split
from planner.solve.free import Best, Effort
from planner.solve.limited import exact_within
from planner.solve.memory import Memory
from planner.solve.network import network
from planner.solve.prices import Labour, Pricing


def knapsack() -> Problem:
    """Five nodes that are quick with many bytes, or slow with none; about half of the bytes fit."""
    held = [3.0, 5.0, 7.0, 11.0, 13.0]
    cost = tuple(np.array([0.0, 1.0 + b * 0.9 + 0.1 * i]) for i, b in enumerate(held))
    usage = tuple(np.array([b, 0.0]) for b in held)
    return Problem(cost, (), usage, spans([Live(tuple(range(5)), ())], 5), 20.0)


def pricing(problem: Problem) -> Pricing:
    memory = Memory(problem)
    best = Best(lambda x: evaluate(problem, x) if peak(problem, x) <= problem.limit else np.inf)
    found = Pricing(network(problem, memory), memory, best, lambda x: evaluate(problem, x), Labour(1e9))
    found.add(tuple(0 for _ in problem.cost))
    return found


def test_cases_part_the_choices_and_leave_the_parent_alone():
    parent = pricing(knapsack())
    parent.ascend(10)
    before = {n: left.tolist() for n, left in parent.net.strategies.items()}
    children = split(parent)
    assert len(children) == 2 and all(child.best is parent.best for child in children)
    assert {n: left.tolist() for n, left in parent.net.strategies.items()} == before
    for child in children:
        assert all(x in parent.columns for x in child.columns)


def test_an_impossible_choice_sets_no_price():
    problem = knapsack()
    found = pricing(replace(problem, cost=(np.array([np.inf, 0.0]), *problem.cost[1:])))
    before = dict(found.columns)
    found.mend((0,) * 5, dict.fromkeys(range(5), 0), np.zeros(found.memory.rows))
    assert found.columns == before


def test_cases_part_where_no_choice_is_known_yet():
    parent = pricing(knapsack())
    parent.ascend(10)
    parent.columns.clear()
    assert len(split(parent)) == 2


def test_higher_prices_lead_to_choices_that_fit_and_the_bound_stays_one():
    found = pricing(knapsack())
    found.ascend(2)
    before = found.best.seconds
    found.squeeze()
    assert found.bound <= brute(knapsack())[1] <= found.best.seconds <= before < np.inf


def test_nothing_is_squeezed_where_nothing_may_be_spent():
    found = pricing(knapsack())
    found.labour.left = -1.0
    found.squeeze()
    assert np.isinf(found.best.seconds) and np.isinf(found.bound)


def test_a_knapsack_is_proven():
    problem = knapsack()
    found = pricing(problem)
    bound = minimise_within(found, Effort())
    assert found.best.seconds == pytest.approx(brute(problem)[1])
    assert bound == pytest.approx(found.best.seconds, rel=1e-6)


@pytest.mark.parametrize("labour", [-1.0, 1e5])
def test_a_bound_stays_a_bound_when_work_runs_out(labour):
    for seed in range(60):
        problem = tiny(seed, memory=True, infinite=0.0)
        found = pricing(problem)
        found.labour.left = labour
        bound = minimise_within(found, Effort(nodes=1))
        excess, seconds = brute(problem)
        assert excess == 0 and bound <= seconds * (1 + 1e-9) <= found.best.seconds * (1 + 2e-9)


@pytest.mark.parametrize("gap", [1e-3, 0.05, 0.3])
def test_a_case_given_up_at_the_gap_keeps_its_bound(gap):
    for limit in np.arange(3.0, 39.0, 0.5):
        problem = replace(knapsack(), limit=limit)
        found = pricing(problem)
        found.best.gap = gap
        bound = minimise_within(found, Effort(gap=gap))
        assert bound <= brute(problem)[1] * (1 + 1e-9)
        assert found.best.seconds - bound <= gap * found.best.seconds


def test_a_program_that_nothing_fits_into_is_a_proof():
    problem = replace(knapsack(), usage=tuple(np.array([b, 1.0]) for b in (3.0, 5.0, 7.0, 11.0, 13.0)), limit=3.0)
    found = pricing(problem)
    assert exact_within(found.net, found.memory, found.best, np.ones(found.memory.rows, bool), Effort()) == np.inf
