"""The working form of a problem while it shrinks: costs per node, one table per pair of nodes, loads on memory rows.

Strategies are only ever removed, and nodes only ever disappear; `lifts` remembers how to put them back. A *load* is
whatever holds bytes: load `n` is node `n`, load `N + e` is edge `e`. Loads whose bytes no longer vary move into `base`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from .problem import Problem

Array = np.ndarray
Loads = dict[int, Array]
Lift = Callable[[list[int]], None]
EVERY = slice(None)


class Impossible(Exception):
    """No choice of finite cost is left."""


@dataclass(frozen=True)
class Table:
    """Costs and loads between two nodes over distinct specs: `cost[row[s], col[t]]`, likewise each `loads[id]`."""

    row: Array
    col: Array
    cost: Array
    loads: Loads = field(default_factory=dict)

    @property
    def T(self) -> Table:
        """The same table seen from the other node."""
        return Table(self.col, self.row, self.cost.T, {i: usage.T for i, usage in self.loads.items()})

    def take(self, kept: Array | slice) -> Table:
        """The table when the first node keeps only the strategies `kept` (indices or mask)."""
        used, row = np.unique(self.row[kept], return_inverse=True)
        return Table(row, self.col, self.cost[used], {i: usage[used] for i, usage in self.loads.items()})

    def __add__(self, other: Table) -> Table:
        """The sum of two tables of the same pair; its specs are the joint ones."""
        row, rows = joint(self.row, other.row)
        col, cols = joint(self.col, other.col)
        mine, theirs = np.ix_(rows[0], cols[0]), np.ix_(rows[1], cols[1])
        loads = {i: usage[mine] for i, usage in self.loads.items()}
        loads |= {i: usage[theirs] for i, usage in other.loads.items()}
        return Table(row, col, self.cost[mine] + other.cost[theirs], loads)

    def priced(self, price: Array) -> Table:
        """The table with `price[i]` seconds per byte of load `i` added to its cost, and no loads."""
        cost = self.cost
        for i, usage in self.loads.items():
            cost = cost + price[i] * usage
        return Table(self.row, self.col, cost)


def joint(a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    """Number the distinct pairs (a[s], b[s]): the number for each s, and the pair for each number."""
    width = int(b.max(initial=0)) + 1
    pairs, index = np.unique(a * width + b, return_inverse=True)
    return index, (pairs // width, pairs % width)


@dataclass
class Network:
    """What is left of a problem.

    Attributes:
        unary: Seconds of the strategies left, by node.
        near: `near[u][v]` is the table from u to v; `near[v][u]` is its transpose.
        strategies: The problem's indices of the strategies left, ascending, by node.
        loads: Bytes of each load on the strategies left, by node.
        member: 1 where a memory row holds a load, shape [rows, loads].
        base: Bytes that no longer vary, by row.
        size: How many nodes the whole problem has.
        constant: Seconds that no longer vary.
        lifts: How to complete a choice, last one first.
    """

    unary: dict[int, Array]
    near: dict[int, dict[int, Table]]
    strategies: dict[int, Array]
    loads: dict[int, Loads]
    member: Array
    base: Array
    size: int
    constant: float = 0.0
    lifts: list[Lift] = field(default_factory=list)

    def copy(self) -> Network:
        """A copy that may shrink on its own. Arrays are shared: nobody writes into them."""
        near = {u: dict(tables) for u, tables in self.near.items()}
        loads = {u: dict(loads) for u, loads in self.loads.items()}
        parts = dict(unary=dict(self.unary), strategies=dict(self.strategies), lifts=list(self.lifts))
        return replace(self, near=near, loads=loads, **parts)

    def priced(self, price: Array) -> Network:
        """A copy without loads in which each byte of load `i` costs `price[i]` more seconds."""
        unary = {n: cost + sum(price[i] * b for i, b in self.loads[n].items()) for n, cost in self.unary.items()}
        near: dict[int, dict[int, Table]] = {u: {} for u in self.near}
        for u, v, table in self.pairs():
            near[u][v] = table.priced(price)
            near[v][u] = near[u][v].T
        parts = dict(strategies=dict(self.strategies), lifts=list(self.lifts))
        return replace(self, unary=unary, near=near, loads={u: {} for u in unary}, **parts)

    def pairs(self) -> Iterable[tuple[int, int, Table]]:
        """Each pair once, lower node first."""
        return ((u, v, table) for u in sorted(self.near) for v, table in sorted(self.near[u].items()) if u < v)

    def loaded(self) -> bool:
        """Whether anything left holds bytes that vary."""
        return any(self.loads.values()) or any(table.loads for _, _, table in self.pairs())

    def join(self, u: int, v: int, table: Table) -> None:
        """Add a table to a pair."""
        if v in self.near[u]:
            table = self.near[u][v] + table
        self.near[u][v], self.near[v][u] = table, table.T

    def restrict(self, n: int, kept: Array) -> None:
        """Keep only the strategies of node `n` in `kept` (mask over those left)."""
        if kept.all():
            return
        if not kept.any():
            raise Impossible
        self.unary[n], self.strategies[n] = self.unary[n][kept], self.strategies[n][kept]
        self.loads[n] = {i: held[kept] for i, held in self.loads[n].items()}
        for m, table in self.near[n].items():
            self.near[n][m] = table.take(kept)
            self.near[m][n] = self.near[n][m].T

    def drop(self, n: int) -> None:
        """Remove a node and its tables."""
        for m in self.near.pop(n):
            del self.near[m][n]
        del self.unary[n], self.strategies[n], self.loads[n]

    def lift(self, choice: dict[int, int]) -> tuple[int, ...]:
        """Complete a choice (positions among the strategies left) to one of the whole problem."""
        full = [0] * self.size
        for n, s in choice.items():
            full[n] = int(self.strategies[n][s])
        for lift in reversed(self.lifts):
            lift(full)
        return tuple(full)


def network(problem: Problem, member: Array) -> Network:
    """The whole problem. `member` has shape [rows, nodes + edges]; loads in no row are left out."""
    nodes = len(problem.cost)
    counted = set(np.flatnonzero(member.sum(axis=0)).tolist())
    net = Network(
        unary=dict(enumerate(problem.cost)),
        near={n: {} for n in range(nodes)},
        strategies={n: np.arange(len(cost)) for n, cost in enumerate(problem.cost)},
        loads={n: {n: problem.usage[n]} if n in counted else {} for n in range(nodes)},
        member=member,
        base=np.zeros(len(member)),
        size=nodes,
    )
    for e, edge in enumerate(problem.edges):
        loads = {nodes + e: edge.usage} if nodes + e in counted and edge.usage is not None else {}
        table = Table(np.asarray(edge.row), np.asarray(edge.col), edge.cost, loads)
        net.join(edge.u, edge.v, table.take(EVERY).T.take(EVERY).T)
    for n, cost in enumerate(problem.cost):
        net.restrict(n, np.isfinite(cost))
    return net


def dearest(net: Network) -> float:
    """No possible choice costs more."""
    tables = sum(float(table.cost[np.isfinite(table.cost)].max()) for _, _, table in net.pairs())
    return net.constant + sum(float(cost.max()) for cost in net.unary.values()) + tables
