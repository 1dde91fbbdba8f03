import numpy as np
import pytest

from planner.solve.dominance import stay
from planner.solve.table import Table


def beats(t, s, cost, tables, loads):
    """Whether strategy t costs no more than s beside any specs, and never holds more."""
    more = cost[s] - cost[t]
    for table in tables:
        p, q = table.row[t], table.row[s]
        possible = np.isfinite(table.cost[q])
        more = more - (table.cost[p] - np.where(possible, table.cost[q], 0.0))[possible].max()
    held = all(load[t] <= load[s] for load in loads)
    return more >= 0 and held and all((h[t.row[a]] <= h[t.row[b]]).all() for t, h, a, b in _held(tables, t, s))


def _held(tables, a, b):
    return [(table, h, a, b) for table in tables for h in table.held]


@pytest.mark.parametrize("seed", range(40))
def test_what_goes_is_beaten_by_what_stays(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 12))

    def table():
        rows, cols = int(rng.integers(1, 6)), int(rng.integers(1, 40))
        cost = rng.integers(0, 3, (rows, cols)).astype(float)
        cost[rng.random(cost.shape) < 0.1] = np.inf
        cost[:, 0] = np.where(np.isfinite(cost).any(axis=1), cost[:, 0], 0.0)
        held = (rng.integers(0, 2, (rows, cols)).astype(float),) if rng.random() < 0.3 else ()
        return Table(rng.integers(0, rows, n), np.arange(cols), cost, held)

    cost = rng.integers(0, 6, n).astype(float)
    tables = [table() for _ in range(int(rng.integers(0, 3)))]
    loads = [rng.integers(0, 2, n).astype(float)] if rng.random() < 0.5 else []
    kept = stay(cost, *tables, *loads)
    better = [[t != s and beats(t, s, cost, tables, loads) for s in range(n)] for t in range(n)]
    first = [any(better[t][s] and (t < s or not better[s][t]) for t in range(n)) for s in range(n)]
    np.testing.assert_array_equal(kept, ~np.array(first))
