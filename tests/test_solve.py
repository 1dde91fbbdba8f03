import sys
from dataclasses import replace

import numpy as np
import pytest
from problems import brute, tiny, transformer

from planner.solve import BACKENDS, Edge, Live, Problem, evaluate, ortools, peak, solve, spans
from planner.solve.free import Best, Effort
from planner.solve.limited import exact_within
from planner.solve.memory import Memory
from planner.solve.network import Impossible, network


def check(problem: Problem, seed: int, backend: str = "highs") -> None:
    solution, (excess, seconds) = solve(problem, backend=backend), brute(problem)
    assert np.allclose([solution.excess, solution.seconds], [excess, seconds], atol=1e-6), seed
    assert solution.status == ("infeasible" if excess > 0 else "optimal"), seed
    assert solution.bound <= seconds + 1e-9 or np.isinf(seconds), seed
    if np.isfinite(seconds):
        assert evaluate(problem, solution.choice) == solution.seconds
        assert max(0.0, peak(problem, solution.choice) - problem.limit) == solution.excess


@pytest.mark.parametrize("block", range(4))
def test_without_memory_equals_enumeration(block):
    for seed in range(50 * block, 50 * block + 50):
        check(tiny(seed), seed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", range(4))
def test_within_memory_equals_enumeration(block, backend):
    for seed in range(50 * block, 50 * block + 50):
        check(tiny(seed, memory=True, tightness=(seed % 7) / 6), seed, backend)


@pytest.mark.parametrize("block", range(2))
def test_what_is_only_glanced_at_without_memory_is_proven_within_it(block, monkeypatch):
    """As networks are that take long to sweep."""
    monkeypatch.setattr(sys.modules["planner.solve.solve"], "MUCH", 0.0)
    for seed in range(50 * block, 50 * block + 50):
        check(tiny(seed, memory=True, tightness=(seed % 7) / 6), seed)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", range(2))
def test_programs_that_are_not_shrunk_equal_enumeration(block, backend):
    """What presolve and prices mostly leave nothing of, given to the back end as it is."""
    for seed in range(50 * block, 50 * block + 50):
        problem = tiny(seed, memory=True, tightness=(seed % 7) / 6)
        memory = Memory(problem)
        best = Best(memory.scoring.within)
        net = network_or_none(problem, memory)
        excess, seconds = brute(problem)
        if net is None or excess > 0 or not memory.rows:
            continue
        bound = exact_within(net, memory, best, np.ones(memory.rows, bool), Effort(gap=1e-9, backend=backend))
        assert best.seconds == pytest.approx(seconds, abs=1e-6) and bound <= seconds + 1e-9, seed


@pytest.mark.parametrize("block", range(2))
def test_a_back_end_that_never_ends_leaves_a_bound_and_a_choice(block, monkeypatch):
    """Not proven, but never wrong."""
    solved = ortools._solved

    def fail(program, nodes, gap):
        if program.integer.any():
            raise RuntimeError(ortools.OUT_OF_NODES)
        return solved(program, nodes, gap)

    monkeypatch.setattr(ortools, "_solved", fail)
    for seed in range(50 * block, 50 * block + 50):
        problem = tiny(seed, memory=True, tightness=(seed % 7) / 6)
        solution, (excess, seconds) = solve(problem), brute(problem)
        assert solution.excess >= excess - 1e-6, seed
        if solution.excess <= 0:
            assert solution.bound <= seconds + 1e-9 <= solution.seconds + 2e-9, seed


def network_or_none(problem, memory):
    try:
        return network(problem, memory)
    except Impossible:
        return None


@pytest.mark.parametrize("block", range(2))
def test_infeasible_excess_and_then_seconds_are_least(block):
    for seed in range(30 * block, 30 * block + 30):
        problem = tiny(seed, memory=True, tightness=0.0)
        check(replace(problem, limit=problem.limit - 1 - seed % 3), seed)


def test_no_finite_choice_is_said_not_raised():
    table = np.array([[np.inf, 0.0], [0.0, np.inf]])
    pick = np.arange(2)
    ends = (np.array([0.0, np.inf]), np.array([0.0, np.inf]))
    problem = Problem(ends, (Edge(0, 1, pick, pick, table),), (np.zeros(2), np.zeros(2)))
    solution = solve(problem)
    assert solution.status == "infeasible" and np.isinf(solution.excess) and np.isinf(solution.seconds)


def test_contradiction_that_only_branching_can_see():
    """Two colours cannot colour a triangle: arc consistency and messages see nothing."""
    differ = np.array([[np.inf, 0.0], [0.0, np.inf]])
    pick = np.arange(2)
    edges = tuple(Edge(u, v, pick, pick, differ) for u, v in ((0, 1), (1, 2), (0, 2)))
    solution = solve(Problem((np.zeros(2),) * 3, edges, (np.zeros(2),) * 3))
    assert solution.status == "infeasible" and np.isinf(solution.excess)


def test_empty_problem():
    assert solve(Problem((), (), ())).choice == ()


def test_planted_optimum_on_a_layered_graph():
    """Make one choice free and every other one dear: it must be found, whatever the graph."""
    problem, rng = transformer(2, axes=2), np.random.default_rng(0)
    plant = tuple(int(rng.integers(len(c))) for c in problem.cost)
    cost = tuple((1e-4 + c) * (np.arange(len(c)) != x) for c, x in zip(problem.cost, plant))
    edges = tuple(replace(e, cost=e.cost * 0 + _noise(e, plant, rng)) for e in problem.edges)
    solution = solve(replace(problem, cost=cost, edges=edges))
    assert solution.choice == plant and solution.status == "optimal"


def _noise(edge, plant, rng):
    noise = rng.uniform(0, 1e-3, edge.cost.shape)
    noise[edge.row[plant[edge.u]], edge.col[plant[edge.v]]] = 0
    return noise


@pytest.fixture(scope="module")
def layered():
    problem = transformer(2, axes=2)
    return problem, solve(problem)


@pytest.mark.parametrize("share", [0.8, 0.4])
def test_layered_graph_within_memory(layered, share):
    problem, free = layered
    limited = replace(problem, limit=share * peak(problem, free.choice))
    first, second = solve(limited), solve(limited)
    assert first == second
    assert first.seconds >= free.seconds
    assert peak(limited, first.choice) <= limited.limit
    assert first.status == "optimal" and first.gap <= 1e-6


def test_layered_graph_is_proven(layered):
    problem, free = layered
    assert free.status == "optimal" and free == solve(problem)


def test_never_worse_than_a_feasible_start(layered):
    problem, free = layered
    limited = replace(problem, limit=0.5 * peak(problem, free.choice))
    good = solve(limited)
    hasty = solve(limited, starts=(free.choice, good.choice), work=0.0)
    assert hasty.seconds <= good.seconds and peak(limited, hasty.choice) <= limited.limit


def test_relabelling_nodes_changes_nothing(layered):
    problem, free = layered
    n = len(problem.cost)
    back = tuple(replace(e, u=n - 1 - e.u, v=n - 1 - e.v, cost=e.cost) for e in reversed(problem.edges))
    mirrored = Problem(problem.cost[::-1], back, problem.usage[::-1])
    assert solve(mirrored).seconds == pytest.approx(free.seconds, rel=1e-6)


def test_least_excess_on_a_layered_graph(layered):
    problem, _ = layered
    none = solve(replace(problem, limit=1.0))
    assert none.status == "infeasible"
    enough = replace(problem, limit=peak(problem, none.choice))
    assert enough.limit == none.excess + 1.0
    assert solve(enough).seconds == pytest.approx(none.seconds, rel=1e-5)
    assert solve(replace(problem, limit=enough.limit * (1 - 1e-5))).status == "infeasible"


def test_live_sets_inside_others_do_not_matter():
    problem = tiny(4, memory=True, infinite=0.0)
    first, *_ = lives = problem.live.sets
    extra = (*lives, Live(first.nodes[:1], ()), first)
    assert solve(replace(problem, live=spans(extra, len(problem.cost)))).seconds == solve(problem).seconds


def test_progress_reports_a_bound_below_the_answer():
    problem, seen = tiny(4, memory=True, infinite=0.0), []
    solution = solve(problem, progress=lambda stage, seconds, bound: seen.append((stage, seconds, bound)))
    assert seen and all(bound <= solution.seconds for _, _, bound in seen)


@pytest.mark.parametrize("tolerance", [1e-2, 0.3])
def test_a_tolerance_keeps_the_bound_honest(tolerance):
    for seed in range(60):
        problem = tiny(seed, memory=seed % 2 == 0)
        solution, (excess, seconds) = solve(problem, tolerance=tolerance), brute(problem)
        if excess == 0:
            assert solution.bound <= seconds + 1e-9 <= solution.seconds + 2e-9
            assert solution.gap <= tolerance
            assert (solution.status == "optimal") == (solution.gap <= 1e-6)
