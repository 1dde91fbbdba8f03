"""Dominated strategies: another one of their node costs no more whatever its neighbours do, and never holds more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .table import BARRED, Array, Table, parts

Pairs = tuple[Array, Array]


def stay(cost: Array, *beside: Array | Table) -> Array:
    """Mask of the strategies of a node that stay, of equals the first.

    Strategy s goes if some t has `c[s] − c[t] ≥ Σ_e max_q (T_e[t, q] − T_e[s, q])` and never more bytes.

    Args:
        cost: Of each strategy.
        *beside: The node's tables, and the bytes of its own loads.
    """
    tables = [p for p in beside if isinstance(p, Table)]
    beaten = _may_beat(cost, tables)
    for held in (p for p in beside if not isinstance(p, Table)):
        beaten &= held[:, None] <= held[None, :]
    better, worse = np.nonzero(beaten)
    beaten[better, worse] = _beats(cost, tables, (better, worse))
    first = np.tri(len(cost), k=-1, dtype=bool).T
    gone: Array = (beaten & (~beaten.T | first)).sum(axis=0) > 0
    gone &= beaten[~gone].any(axis=0)  # rounding may let strategies beat each other in a circle
    return ~gone


def _may_beat(cost: Array, tables: Sequence[Table]) -> Array:
    """Whether t beats s, [t, s], by some columns of each table; no strategy beats itself."""
    more = cost[None, :] - cost[:, None]
    for table in tables:
        more = more - table.least[np.ix_(table.row, table.row)]
    return (more >= 0) & ~np.eye(len(cost), dtype=bool)


def _beats(cost: Array, tables: Sequence[Table], pairs: Pairs) -> Array:
    more = cost[pairs[1]] - cost[pairs[0]]
    for table in tables:
        more = more - _most(table.cost, table.row, pairs)
    beats: Array = more >= 0
    for table in tables:
        for held in table.held:
            beats &= _most(held, table.row, pairs) <= 0
    return beats


def _most(cost: Array, row: Array, pairs: Pairs) -> Array:
    """How much more t can cost than s, for pairs of strategies t, s. Columns that s rules out do not count."""
    ruled_out, width = np.isinf(cost), len(cost)
    floor, most = np.where(ruled_out, -np.inf, -cost), np.where(ruled_out, BARRED, cost)
    distinct, where = np.unique(row[pairs[0]] * width + row[pairs[1]], return_inverse=True)
    ends = (divmod(part, width) for part in parts(distinct, cost.shape[1]))
    out = np.concatenate([(most[t] + floor[s]).max(axis=1) for t, s in ends])
    return np.where(out > BARRED / 2, np.inf, out)[where]
