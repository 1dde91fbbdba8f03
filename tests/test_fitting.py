import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import choices, tiny

from planner.solve import Live, Problem, evaluate, peak, spans
from planner.solve.fitting import crowded, fit, most
from planner.solve.memory import Memory
from planner.solve.network import Impossible, network


def weights(limit: float) -> Problem:
    """Two nodes that hold 1, 4 or 9 bytes, at one moment."""
    held = np.array([1.0, 4.0, 9.0])
    return Problem((9 - held, 9 - held), (), (held, held), spans([Live((0, 1), ())], 2), limit)


def whole(problem: Problem):
    return network(problem, Memory(problem))


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), tightness=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_keeps_the_best_choice_that_fits(seed, tightness):
    problem = tiny(seed, memory=True, tightness=tightness)
    within = [evaluate(problem, x) for x in choices(problem) if peak(problem, x) <= problem.limit]
    best = min(within, default=np.inf)
    try:
        net = fit(whole(problem), problem.limit)
    except Impossible:
        assert np.isinf(best)
        return
    left = [net.lift(dict(zip(net.unary, x))) for x in np.ndindex(*(len(c) for c in net.unary.values()))]
    found = [evaluate(problem, x) for x in left if peak(problem, x) <= problem.limit]
    assert min(found, default=np.inf) == pytest.approx(best)


def test_what_leaves_no_room_for_the_others_goes():
    net = whole(weights(8.5))
    assert most(net, 8.5)[:2] == pytest.approx([7.5, 7.5])
    assert [len(cost) for cost in fit(net, 8.5).unary.values()] == []  # 1 or 4 each: they always fit, and are settled
    assert net.lift({}) == (1, 1)


def test_rows_that_can_still_run_over_stay():
    net = fit(whole(weights(7)), 7.0)
    assert {n: left.tolist() for n, left in net.strategies.items()} == {0: [0, 1], 1: [0, 1]} and net.loaded()


def test_nothing_fits():
    with pytest.raises(Impossible):
        fit(whole(weights(1)), 1.0)


@pytest.mark.parametrize("limit, too_much", [(1, True), (7, False)])
def test_says_whether_the_least_of_everything_is_too_much(limit, too_much):
    assert crowded(whole(weights(limit)), limit) == too_much
