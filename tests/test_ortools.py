import gzip
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from problems import brute, tiny, transformer

from planner.solve import evaluate, ortools
from planner.solve.marginals import decode, encode, with_rows
from planner.solve.network import Impossible, network
from planner.solve.ortools import BACKENDS, Program, cp_model_pb2, cp_parameters, run, solved


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_integers(backend):
    outcome = run(knapsack(True), backend=backend)
    assert outcome.values is not None and outcome.values.round().tolist() == [1, 1, 0]
    assert outcome.bound == pytest.approx(3.0)


def covering(seed: int = 0) -> Program:
    """Of 30 sets the cheapest that cover 15 rows thrice over: hundreds of nodes."""
    rng, shape = np.random.default_rng(seed), (15, 30)
    some = rng.integers(1, 50, shape).astype(float)
    rows, cols = np.nonzero(some)
    cost = rng.integers(10, 60, shape[1]).astype(float)
    one = np.ones(shape[1])
    return Program(cost, one, one > 0, rows, cols, some[rows, cols], some.sum(1) / 3, np.full(shape[0], np.inf))


def test_out_of_nodes_a_wider_gap_is_tried():
    program = covering()
    best, rough = run(program, 1_000_000), run(program, 1)
    assert best.values is not None and rough.values is not None
    assert best.bound == pytest.approx(program.cost @ best.values.round())
    assert rough.bound < best.bound <= program.cost @ rough.values.round() + 1e-6


def test_out_of_nodes_nothing_is_known(monkeypatch):
    monkeypatch.setattr(ortools, "WIDER", ())
    outcome = run(covering(), 1)
    assert outcome.values is None and outcome.bound == -np.inf


def test_other_failures_of_a_solver_are_no_limit(monkeypatch):
    def fail(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ortools, "_solved", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run(covering())


def test_duals_of_a_linear_program():
    program = knapsack(False)
    tight = Program(**{**vars(program), "high": np.array([4.0])})
    outcome = run(tight)
    assert outcome.bound == pytest.approx(10 - 3 - 4 * 2 / 3)
    assert outcome.duals == pytest.approx([-4 / 3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_fits(backend):
    outcome = run(with_rows(knapsack(True), [(np.arange(3), -np.ones(3), -4.0)]), backend=backend)
    assert outcome.values is None and np.isinf(outcome.bound)


@pytest.mark.parametrize("backend", BACKENDS)
@given(seed=st.integers(0, 10_000))
def test_marginals_describe_the_network(backend, seed):
    problem = tiny(seed, infinite=0.2)
    try:
        net = network(problem)
    except Impossible:
        return
    encoded = encode(net, unit=2.0)
    outcome = run(encoded.program, backend=backend)
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


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_rounding_to_integers_favours_what_is_possible(scale):
    """Rows of any magnitude: the bound never passes the optimum, and nothing is noticeably over the limit."""
    rng, every = np.random.default_rng(0), np.array([[i >> b & 1 for b in range(6)] for i in range(64)])
    for _ in range(30):
        held, cost = scale * rng.random(6), rng.random(6) - 0.5
        limit = held.sum() * rng.random()
        row = (np.zeros(6, int), np.arange(6), held, np.array([-np.inf]), np.array([limit]))
        outcome = run(Program(cost, np.ones(6), np.ones(6, bool), *row), gap=0.0, backend="cp-sat")
        best = (every @ cost)[every @ held <= limit].min()
        assert outcome.values is not None and outcome.bound <= best
        assert cost @ outcome.values == pytest.approx(best, abs=1e-8)
        assert held @ outcome.values <= limit + 1e-8 * scale


@pytest.mark.parametrize("presolve", [True, False])
def test_cp_sat_does_not_call_a_feasible_model_infeasible(presolve):
    """16 constraints that OR-Tools 9.15.6755 calls infeasible, by its own parameters and without its presolve."""
    with gzip.open(Path(__file__).parent / "data" / "cpsat_false_infeasible.pbtxt.gz", "rt") as file:
        model = text_format.Parse(file.read(), cp_model_pb2.CpModelProto())
    parameters = cp_parameters(300, 1e-6)
    parameters.cp_model_presolve = presolve
    assert solved(model, parameters).status in (cp_model_pb2.OPTIMAL, cp_model_pb2.FEASIBLE)


def test_back_ends_agree_on_a_whole_layer():
    """Not shrunk: what CP-SAT then has to prove is all its own."""
    net = network(transformer(1))
    encoded = encode(net, unit=1e-3)
    found = [run(encoded.program, gap=1e-6, backend=backend) for backend in BACKENDS]
    seconds = [encoded.program.cost @ f.values + encoded.program.offset for f in found if f.values is not None]
    assert seconds[0] == pytest.approx(seconds[1], rel=1e-5)
    assert all(f.bound <= min(seconds) + 1e-9 for f in found)
    again = run(encoded.program, gap=1e-6, backend="cp-sat")
    assert again.bound == found[1].bound and again.values is not None and found[1].values is not None
    assert again.values.tolist() == found[1].values.tolist()
