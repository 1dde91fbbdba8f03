"""Small loads at their least: a relaxation that is solved first."""

import numpy as np
import pytest
from problems import brute, choices, tiny

from planner.solve import Live, Problem, base, evaluate, ready, solve, spans
from planner.solve.branch import cases
from planner.solve.fitting import fit
from planner.solve.free import Best, Effort
from planner.solve.memory import Memory
from planner.solve.network import Impossible
from planner.solve.prices import Labour, Pricing


def possible(problem: Problem):
    return (x for x in choices(problem) if np.isfinite(evaluate(problem, x)))


@pytest.mark.parametrize("share", [0.1, 0.3, 1.0])
def test_a_lighter_row_holds_no_more_and_hardly_less(share):
    found = 0
    for seed in range(80):
        problem = tiny(seed, memory=True)
        memory = Memory(problem)
        lighter = memory.lighter(share)
        if lighter is None:
            continue
        found += 1
        for x in possible(problem):
            less = memory.used(x) - lighter.used(x)
            assert (less >= 0).all() and (less <= share * problem.limit).all()
    assert found > 5


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_what_is_proven_with_small_loads_at_their_least_is_proven(share, monkeypatch):
    monkeypatch.setattr(base, "LIGHT", share)
    found = 0
    for seed in range(60):
        problem = tiny(seed, memory=True, tightness=0.7)
        light, (excess, seconds) = ready(problem).light, brute(problem)
        if light is None or excess:
            continue
        found += 1
        best = Best(light.scoring.within)
        try:
            net = fit(light.left({}), problem.limit)
            bound = cases(Pricing(net, light.memory, best, light.scoring.seconds, Labour(1e9)), Effort())
        except Impossible:
            bound = np.inf
        assert bound <= seconds * (1 + 1e-9) <= best.seconds * (1 + 2e-9)
    assert found > 5


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_what_is_best_with_small_loads_at_their_least_need_not_fit(share, monkeypatch):
    monkeypatch.setattr(base, "LIGHT", share)
    for seed in range(60):
        problem = tiny(seed, memory=True)
        solution, (excess, seconds) = solve(problem), brute(problem)
        if excess == 0:
            assert solution.status == "optimal" and solution.seconds == pytest.approx(seconds)


def test_small_loads_that_break_the_limit_are_looked_at_again():
    """The large load fits beside the least of the small ones, not beside what is cheapest of them."""
    held = (np.array([9.5, 0.0]), *[np.array([0.25, 0.0])] * 4)
    cost = (np.array([0.0, 10.0]), *(np.array([0.0, 1.0 + i]) for i in range(4)))
    problem = Problem(cost, (), held, spans([Live(tuple(range(5)), ())], 5), 10.0)
    light = ready(problem).light
    assert light is not None and light.memory.used((0, 0, 0, 0, 0)) == 9.5
    assert solve(problem).choice == (0, 1, 1, 0, 0)
