import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import brute, tiny

from planner.solve import evaluate
from planner.solve.marginals import decode, encode, with_rows
from planner.solve.network import Impossible, network
from planner.solve.ortools import Program, run


def knapsack(integer: bool) -> Program:
    """Pack values 3, 4, 5 of sizes 2, 3, 4 into 5."""
    one = np.ones(3)
    return Program(
        np.array([-3.0, -4.0, -5.0]),
        one,
        np.full(3, integer),
        np.zeros(3, int),
        np.arange(3),
        np.array([2.0, 3.0, 4.0]),
        np.array([-np.inf]),
        np.array([5.0]),
        offset=10.0,
    )


def test_integers():
    outcome = run(knapsack(True))
    assert outcome.values is not None and outcome.values.round().tolist() == [1, 1, 0]
    assert outcome.bound == pytest.approx(3.0)


def test_duals_of_a_linear_program():
    program = knapsack(False)
    tight = Program(**{**vars(program), "high": np.array([4.0])})
    outcome = run(tight)
    assert outcome.bound == pytest.approx(10 - 3 - 4 * 2 / 3)
    assert outcome.duals == pytest.approx([-4 / 3])


def test_nothing_fits():
    outcome = run(with_rows(knapsack(True), [(np.arange(3), -np.ones(3), -4.0)]))
    assert outcome.values is None and np.isinf(outcome.bound)


@given(seed=st.integers(0, 10_000))
def test_marginals_describe_the_network(seed):
    problem = tiny(seed, infinite=0.2)
    try:
        net = network(problem)
    except Impossible:
        return
    encoded = encode(net, unit=2.0)
    outcome = run(encoded.program)
    _, seconds = brute(problem)
    if outcome.values is None:
        assert np.isinf(seconds)
        return
    assert outcome.bound * encoded.unit == pytest.approx(seconds, rel=1e-6)
    assert evaluate(problem, net.lift(decode(net, encoded, outcome.values))) == pytest.approx(seconds, rel=1e-6)


def test_the_same_program_gives_the_same_answer():
    first, second = run(knapsack(True)), run(knapsack(True))
    assert first.values is not None and second.values is not None
    assert (first.values == second.values).all() and first.bound == second.bound


def test_bounds_are_honest_about_near_ties():
    """Choices that differ by less than 1e-6: none may be pruned and then claimed to be below the bound."""
    rng, worse = np.random.default_rng(0), 0
    for _ in range(40):
        n = 14
        held = rng.integers(20, 60, n).astype(float)
        cost = -held / 300 + rng.uniform(0, 1e-7, n)
        limit = float(held.sum() // 2)
        picks = (np.arange(1 << n)[:, None] >> np.arange(n)) & 1
        best = float((picks @ cost)[picks @ held <= limit].min())
        ones, integer = np.ones(n), np.ones(n, bool)
        row = np.zeros(n, int), np.arange(n), held
        found = run(Program(cost, ones, integer, *row, low=np.array([-np.inf]), high=np.array([limit])), gap=0.0)
        worse += found.bound > best + 1e-12
    assert worse == 0
