"""Folding ties what is equal and nothing else is said: seconds, bytes and bounds of the whole stay what they are."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from problems import brute, transformer

from planner.solve import Edge, Live, Problem, evaluate, peak, ready, rivals, solve, spans
from planner.solve import base as base_module
from planner.solve.alike import Folded, fold
from planner.solve.free import Best
from planner.solve.whole import bound_of


def chain(layers, seed, size=2, strategies=3):
    """Equal layers of `size` nodes in a row, each with bytes, joined within and to the next; and one node for all."""
    rng = np.random.default_rng(seed)
    cost, usage = rng.random((size, strategies)).round(2), rng.integers(0, 5, (size, strategies)).astype(float)
    inside, onward, shared = (rng.random((strategies, strategies)).round(2) for _ in range(3))
    held = rng.integers(0, 4, (strategies, strategies)).astype(float)
    every = np.arange(strategies)
    inputs, weight = rng.random(strategies).round(2), np.zeros(strategies)
    nodes = [n for _ in range(layers) for n in range(size)]
    edges = []
    for layer in range(layers):
        first = layer * size
        edges += [Edge(first + i, first + i + 1, every, every, inside, held) for i in range(size - 1)]
        edges.append(Edge(len(nodes), first, every, every, shared))
        if layer + 1 < layers:
            edges.append(Edge(first + size - 1, first + size, every, every, onward))
            edges.append(Edge(first, first + size, every, every, inside, held))
    lives = [
        Live(
            tuple(range(max(0, at - 1), min(len(nodes), at + size))),
            tuple(i for i, e in enumerate(edges) if at in (e.u, e.v)),
        )
        for at in range(len(nodes))
    ]
    costs, usages = [cost[n] for n in nodes], [usage[n] for n in nodes]
    return Problem((*costs, inputs), tuple(edges), (*usages, weight), spans(lives, len(nodes) + 1))


def folded_of(problem):
    found = fold(problem)
    assert found is not None
    return found


def test_what_repeats_only_its_loose_ends_is_not_folded():
    """Equal nodes that no edge joins are many, but what there is to decide does not get less."""
    problem = transformer(3)
    loose = 2 * len(problem.cost)
    more = Problem((*problem.cost, *[np.zeros(2)] * loose), problem.edges, (*problem.usage, *[np.ones(2)] * loose))
    assert fold(more) is None


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_choices_of_the_folded_problem_are_choices_of_the_whole(seed, size):
    problem = chain(36, seed, size)
    folded, rng = folded_of(problem), np.random.default_rng(seed)
    assert len(folded.problem.cost) <= len(problem.cost) / 2
    for _ in range(20):
        choice = [int(rng.integers(len(c))) for c in folded.problem.cost]
        for e in folded.problem.edges:  # what follows a node for its bytes takes what the node takes
            if np.isinf(e.cost).any():
                choice[e.v] = choice[e.u]
        whole = folded.unfold(choice)
        assert evaluate(folded.problem, choice) == pytest.approx(evaluate(problem, whole))
        assert peak(folded.problem, choice) == pytest.approx(peak(problem, whole))


def test_the_folded_optimum_is_the_best_of_all_that_keep_equal_layers_alike(always):
    problem = chain(16, 0, size=1)
    folded = folded_of(problem)
    tight = replace(problem, limit=0.99 * peak(problem, folded.unfold(solve(folded.problem).choice)))
    for whole in (problem, tight):
        tied = folded_of(whole)
        every = itertools.product(range(3), repeat=int(tied.of.max()) + 1)
        uniform = [tied.unfold(choice) for choice in every]
        best = min((evaluate(whole, c) for c in uniform if peak(whole, c) <= whole.limit), default=np.inf)
        found = solve(tied.problem)
        assert (found.status == "infeasible") == np.isinf(best)
        assert found.seconds == pytest.approx(best) or np.isinf(best)


def test_what_does_not_repeat_is_not_folded():
    rng = np.random.default_rng(0)
    cost = tuple(rng.random(3) for _ in range(20))
    assert fold(Problem(cost, (), tuple(np.zeros(3) for _ in cost))) is None


def test_equal_parts_are_found_by_what_they_are_not_by_where_they_stand():
    """The same program with its nodes and edges in another order, and arrays that are equal but not the same."""
    problem, rng = chain(24, 1), np.random.default_rng(1)
    order = rng.permutation(len(problem.cost))
    place = np.argsort(order)
    edges = [replace(e, u=int(place[e.u]), v=int(place[e.v]), cost=e.cost.copy()) for e in problem.edges]
    moved = Problem(
        tuple(problem.cost[n].copy() for n in order),
        tuple(edges[i] for i in rng.permutation(len(edges))),
        tuple(problem.usage[n].copy() for n in order),
    )
    first, second = folded_of(problem), folded_of(moved)
    assert len(first.problem.cost) - len(second.problem.cost) in range(0, 9)  # without memory nothing follows
    tied = [{frozenset(np.flatnonzero(first.of == c).tolist()) for c in set(first.of.tolist())}]
    tied.append({frozenset(order[second.of == c].tolist()) for c in set(second.of.tolist())})
    assert tied[0] == tied[1]


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr("planner.solve.base.SMALL", 0)
    monkeypatch.setattr("planner.solve.alike.ROUNDS", 1)
    monkeypatch.setattr("planner.solve.alike.WORTH", 0.9)


@pytest.mark.parametrize("seed", range(6))
def test_folding_first_loses_nothing(always, seed):
    """Twelve nodes of two strategies: few enough to enumerate, with and without memory that binds."""
    problem = chain(11, seed, size=1, strategies=2)
    assert ready(problem).alike is not None
    free = solve(problem)
    for limit in (np.inf, 0.8 * peak(problem, free.choice)):
        limited = replace(problem, limit=limit)
        solution, (excess, seconds) = solve(limited), brute(limited)
        assert solution.excess == pytest.approx(excess) and solution.seconds == pytest.approx(seconds, abs=1e-6)
        assert solution.bound <= seconds + 1e-9
        assert solution.alike >= solution.seconds - 1e-12
        if np.isfinite(solution.alike):
            tied = folded_of(limited)
            assert solution.alike == pytest.approx(solve(tied.problem).seconds, rel=1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_a_whole_that_is_only_bounded_has_an_honest_bound(always, monkeypatch, seed):
    monkeypatch.setattr("planner.solve.base.LARGE", 0)
    problem = chain(11, seed, size=1, strategies=2)
    limited = replace(problem, limit=0.9 * peak(problem, solve(problem).choice))
    for whole in (problem, limited):
        solution, (excess, seconds) = solve(whole), brute(whole)
        if excess == 0 and solution.status != "infeasible":
            assert solution.bound <= seconds + 1e-9 <= solution.seconds + 2e-9
            assert peak(whole, solution.choice) <= whole.limit


def test_bounds_of_the_whole_are_close_without_memory():
    problem = transformer(6)
    made = ready(problem)
    best = Best(made.scoring.within)
    bound = bound_of(made, {}, np.zeros(made.memory.rows), best)
    exact = solve(problem).seconds
    assert 0.95 * exact <= bound <= exact * (1 + 1e-9) <= best.seconds * (1 + 2e-9)


def test_layouts_are_scored_alike_in_every_layer(always):
    problem = chain(24, 2)
    mask = {n: np.array([True, False, True]) for n in range(0, 48, 2)}
    (found,) = rivals(ready(problem), [mask])
    assert all(m[found.choice[n]] for n, m in mask.items())
    assert found.seconds == pytest.approx(evaluate(problem, found.choice))
    assert len({found.choice[n] for n in range(16, 32, 2)}) == 1


def test_small_problems_are_solved_as_they_are():
    assert base_module.SMALL > 1000
    assert ready(chain(24, 0)).alike is None and np.isinf(solve(chain(4, 0)).alike)


def test_what_is_left_of_any_tied_node_is_left_of_all():
    one, two = np.array([True, False]), np.array([False, True])
    folded = Folded(Problem((), (), ()), np.array([0, 0, 1, 1]))
    assert [mask.tolist() for mask in folded.either({0: one, 1: two, 2: one}).values()] == [[True, True]]
    assert [mask.tolist() for mask in folded.masks({0: one, 1: two, 2: one}).values()] == [
        [False, False],
        [True, False],
    ]
