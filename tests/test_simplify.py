from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import brute, choices, tiny

from planner.solve import Edge, Live, Problem, evaluate, spans
from planner.solve.eliminate import eliminate
from planner.solve.memory import Memory
from planner.solve.network import Impossible, network
from planner.solve.simplify import consistent, merge, simplify, undominated


def plain(problem):
    return network(problem)


def best_left(net, problem):
    """Least seconds over all choices of what is left, each lifted and evaluated on the whole problem."""
    nodes = sorted(net.unary)
    options = np.ndindex(*(len(net.unary[n]) for n in nodes))
    return min(evaluate(problem, net.lift(dict(zip(nodes, option)))) for option in options)


def finite(problem):
    return np.isfinite(brute(problem)[1])


def each_node(step, net):
    for n in sorted(net.unary):
        if n in net.unary:
            step(net, n)


def consistently(net):
    for _ in range(sum(len(cost) for cost in net.unary.values())):
        for u, v, _table in list(net.pairs()):
            consistent(net, u, v)


STEPS = {
    "arc consistency": consistently,
    "elimination": lambda net: (consistently(net), each_node(_eliminate, net)),
    "merge": lambda net: (consistently(net), each_node(merge, net)),
    "dominance": lambda net: (consistently(net), each_node(undominated, net)),
    "all": simplify,
}


def _eliminate(net, n):
    for m in sorted(net.near[n]):
        consistent(net, n, m)
    eliminate(net, n)


@pytest.mark.parametrize("step", STEPS)
@given(seed=st.integers(0, 10_000), infinite=st.sampled_from([0.0, 0.2, 0.5]))
def test_keeps_the_optimum_and_lifts_to_it(step, seed, infinite):
    problem = tiny(seed, infinite=infinite)
    try:
        net = plain(problem)
        STEPS[step](net)
    except Impossible:
        assert not finite(problem)
        return
    if finite(problem):
        assert best_left(net, problem) == pytest.approx(brute(problem)[1])


@given(seed=st.integers(0, 10_000))
def test_bytes_of_what_is_left_are_bytes_of_the_lift(seed):
    problem = tiny(seed, memory=True, infinite=0.1)
    memory = Memory(problem)
    try:
        net = simplify(network(problem, memory))
    except Impossible:
        assert not finite(problem)
        return
    choice = {n: len(cost) - 1 for n, cost in net.unary.items()}
    assert np.allclose(memory.used(net.lift(choice)), rows(net, choice))


def rows(net, choice):
    held = np.zeros(len(net.still))
    for n, s in choice.items():
        for i, b in net.loads[n].items():
            held[i] = b[s]
    for (u, v), ids in net.cargo.items():
        t = net.near[u][v]
        for i, b in zip(ids, t.held):
            held[i] = b[t.row[choice[u]], t.col[choice[v]]]
    return net.totals(held)


@given(seed=st.integers(0, 10_000))
def test_simplify_with_memory_keeps_the_best_choice_that_fits(seed):
    problem = tiny(seed, memory=True, infinite=0.1)
    excess, seconds = brute(problem)
    if excess or np.isinf(seconds):
        return
    net, memory = network(problem, Memory(problem)), Memory(problem)
    simplify(net)
    nodes = sorted(net.unary)
    lifted = [net.lift(dict(zip(nodes, o))) for o in np.ndindex(*(len(net.unary[n]) for n in nodes))]
    fitting = [evaluate(problem, full) for full in lifted if (memory.used(full) <= problem.limit).all()]
    assert min(fitting) == pytest.approx(seconds)


def chain(length=6, k=5, seed=0):
    rng = np.random.default_rng(seed)
    pick = np.arange(k)
    edges = tuple(Edge(i, i + 1, pick, pick, rng.random((k, k))) for i in range(length - 1))
    return Problem(tuple(rng.random((length, k))), edges, (np.zeros(k),) * length)


def test_a_chain_vanishes():
    problem = chain()
    net = simplify(plain(problem))
    assert not net.unary
    assert net.constant == pytest.approx(brute(problem)[1]) == evaluate(problem, net.lift({}))


def test_a_wheel_loses_nothing_but_dominated_strategies_when_cells_run_out():
    problem = chain(5)
    spokes = tuple(Edge(0, i, e.row, e.col, e.cost) for i, e in enumerate(problem.edges, 1))
    problem = Problem(problem.cost, problem.edges + spokes, problem.usage)
    net = simplify(plain(problem), cells=0)
    assert net.unary and best_left(net, problem) == pytest.approx(brute(problem)[1])


def test_a_function_edge_is_merged_and_carries_the_bytes():
    equal = np.where(np.eye(3) > 0, 0.0, np.inf)
    pick = np.arange(3)
    edges = (Edge(0, 1, pick, pick, equal), *(Edge(1, m, pick, pick, np.ones((3, 3))) for m in (2, 3, 4)))
    always = spans([Live(tuple(range(5)), ())], 5)
    problem = Problem((np.arange(3.0),) * 5, edges, (np.arange(3.0),) * 5, always, limit=9.0)
    net = network(problem, Memory(problem))
    assert merge(net, 0) and 0 not in net.unary
    assert sorted(net.near[1]) == [2, 3, 4]
    assert [*net.loads[1]] == [1] and net.roots()[:5].tolist() == [1, 1, 2, 3, 4]
    assert net.lift({1: 2, 2: 0, 3: 0, 4: 0}) == (2, 2, 0, 0, 0)


def test_a_node_with_varying_bytes_is_not_minimised_out_until_they_settle():
    problem = chain(2, 2)
    problem = replace(problem, usage=(np.array([1.0, 2.0]), np.array([3.0, 3.0])), limit=4.0)
    problem = replace(problem, live=spans([Live((0, 1), ())], 2), cost=(np.array([9.0, 0.0]), problem.cost[1]))
    net = network(problem, Memory(problem))
    assert not eliminate(net, 0)
    assert eliminate(net, 1) and net.totals(np.zeros(4)).tolist() == [3.0]


def test_a_leaf_goes_where_the_cheapest_holds_the_least():
    problem = chain(2, 2)
    usage, cost = (np.array([1.0, 2.0]), np.array([0.0, 0.0])), (np.array([0.0, 9.0]), problem.cost[1])
    problem = replace(problem, usage=usage, cost=cost, limit=1.5, live=spans([Live((0, 1), ())], 2))
    net = network(problem, Memory(problem))
    assert eliminate(net, 0) and not net.loaded() and net.totals(np.zeros(4)).tolist() == [1.0]


def test_parallel_edges_in_both_directions_add_up():
    rng = np.random.default_rng(0)
    tables = rng.random((2, 2, 3))
    row, col = np.array([0, 1, 1]), np.array([2, 0, 1, 1])
    edges = (Edge(0, 1, row, col, tables[0]), Edge(1, 0, col, row, tables[1].T))
    problem = Problem((np.zeros(3), np.zeros(4)), edges, (np.zeros(3), np.zeros(4)))
    table = plain(problem).near[0][1]
    dense = table.cost[table.row][:, table.col]
    assert all(dense[x] == pytest.approx(evaluate(problem, x)) for x in choices(problem))


def meshed(seed, infinite, nodes=10):
    """Nodes joined at random, half of the tables with nothing but what is impossible."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 5, nodes).tolist()
    edges = []
    for _ in range(2 * nodes):
        u, v = rng.choice(nodes, 2, replace=False).tolist()
        cost = rng.random((sizes[u], sizes[v])) * (rng.random() < 0.5)
        cost[rng.random(cost.shape) < infinite] = np.inf
        edges.append(Edge(u, v, np.arange(sizes[u]), np.arange(sizes[v]), cost))
    return Problem(tuple(map(rng.random, sizes)), tuple(edges), tuple(map(np.zeros, sizes)))


def test_every_strategy_that_is_left_has_a_partner_in_every_neighbour():
    """Message passing counts on that: a strategy without one would send infinite messages."""
    left = 0
    for seed in range(600):
        try:
            net = simplify(network(meshed(seed, 0.1 + 0.15 * (seed % 3))), 1, dominance=False)
        except Impossible:
            continue
        left += bool(net.near)
        assert all(table.sound for _, _, table in net.pairs()), seed
    assert left > 200
