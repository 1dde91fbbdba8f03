import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import brute, choices, tiny, transformer

from planner.solve import evaluate
from planner.solve.network import Impossible, network
from planner.solve.simplify import consistent
from planner.solve.trws import Messages


def messages(problem):
    net = network(problem)
    for _ in net.unary:
        for u, v, _table in list(net.pairs()):
            consistent(net, u, v)
    return Messages(net)


@given(seed=st.integers(0, 10_000), sweeps=st.integers(1, 6), infinite=st.sampled_from([0.0, 0.2]))
def test_bounds_stay_below_what_they_bound(seed, sweeps, infinite):
    problem = tiny(seed, infinite=infinite)
    try:
        found = messages(problem)
    except Impossible:
        assert np.isinf(brute(problem)[1])
        return
    bounds = [found.sweep() for _ in range(sweeps)]
    found.settle()
    cells = found.cells()
    assert bounds == sorted(bounds)
    for choice in choices(problem):
        seconds = evaluate(problem, choice)
        if np.isfinite(seconds):
            at = {n: int(np.searchsorted(found.net.strategies[n], x)) for n, x in enumerate(choice)}
            assert found.bound <= seconds
            assert all(found.floor[n][s] <= seconds for n, s in at.items())
            for u, v, t in ((u, v, found.net.near[u][v]) for u, v in cells):
                assert cells[u, v][t.row[at[u]], t.col[at[v]]] <= seconds + 1e-12


@given(seed=st.integers(0, 10_000))
def test_any_messages_give_a_bound(seed):
    problem = tiny(seed, infinite=0.0)
    net, rng = messages(problem).net, np.random.default_rng(seed)
    sent = {(m, n): rng.normal(size=len(net.unary[n])) for n in net.near for m in net.near[n]}
    assert Messages(net, sent).sweep() <= brute(problem)[1]


@given(seed=st.integers(0, 10_000))
def test_a_tree_is_solved_in_one_sweep(seed):
    problem = tiny(seed, infinite=0.0)
    tree = {}
    for e in problem.edges:
        tree.setdefault(max(e.u, e.v), e)  # each node has at most one edge to a lower one
    problem = type(problem)(problem.cost, tuple(tree.values()), problem.usage)
    found = messages(problem)
    found.sweep()
    best = brute(problem)[1]
    assert found.bound == pytest.approx(best, rel=1e-6)
    assert evaluate(problem, found.net.lift(found.round())) == pytest.approx(best)


def test_floors_of_a_chain_are_exact():
    problem = tiny(5, infinite=0.0)
    first = type(problem)(problem.cost[:2], tuple(e for e in problem.edges if max(e.u, e.v) < 2), problem.usage[:2])
    found = messages(first)
    found.sweep()
    found.sweep()
    found.settle()
    for n in range(2):
        for s, floor in enumerate(found.floor[n]):
            assert floor == pytest.approx(min(evaluate(first, x) for x in choices(first) if x[n] == s), rel=1e-6)


def test_layered_graph_is_nearly_tight():
    problem = transformer(2)
    found = messages(problem)
    for _ in range(30):
        found.sweep()
    upper = evaluate(problem, found.net.lift(found.round()))
    assert found.bound <= upper <= found.bound * 1.05
