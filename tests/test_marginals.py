import numpy as np

from planner.solve import Edge, Problem
from planner.solve.marginals import cells, distinct
from planner.solve.network import network


def chain(*tables):
    n = len(tables) + 1
    at, none = np.arange(3), tuple(np.zeros(3) for _ in range(n))
    return network(Problem(none, tuple(Edge(u, u + 1, at, at, table) for u, table in enumerate(tables)), none))


def test_equal_tables_count_once():
    one, other = np.arange(9.0).reshape(3, 3) ** 2, 1 + np.eye(3)
    net = chain(one, one.copy(), other, one)
    assert cells(net) == 4 * 9
    assert distinct(net) == 2 * 9
