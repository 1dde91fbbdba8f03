"""The working form of a problem while it shrinks: costs per node, one table per pair of nodes, loads on memory rows.

Strategies are only ever removed, and nodes only ever disappear; `lifts` remembers how to put them back. A *load* is
whatever holds bytes: load `n` is node `n`, load `N + e` is edge `e`. Loads of one node that hold the same bytes
whatever it does become one, and bytes that no longer vary are settled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from .memo import Memo
from .memory import Memory
from .problem import Problem
from .table import Array, Table, add, compact, take

Loads = dict[int, Array]
Lift = Callable[[list[int]], None]


class Impossible(Exception):
    """No choice of finite cost is left."""


@dataclass
class Network:
    """What is left of a problem.

    Attributes:
        unary: Seconds of the strategies left, by node.
        near: `near[u][v]` is the table from u to v; `near[v][u]` is its transpose.
        strategies: The problem's indices of the strategies left, ascending, by node.
        loads: Bytes of each load on the strategies left, by node.
        cargo: Which load each of `near[u][v].held` is, for u < v.
        memory: The rows; None where memory is no object.
        into: Which load stands for each load (of the problem, and one for none).
        still: Bytes that no longer vary, by load.
        active: Mask of the rows that may run over the limit.
        size: How many nodes the whole problem has.
        constant: Seconds that no longer vary.
        lifts: How to complete a choice, last one first.
    """

    unary: dict[int, Array]
    near: dict[int, dict[int, Table]]
    strategies: dict[int, Array]
    loads: dict[int, Loads]
    cargo: dict[tuple[int, int], tuple[int, ...]]
    memory: Memory | None
    into: Array
    still: Array
    active: Array
    size: int
    memo: Memo
    constant: float = 0.0
    lifts: list[Lift] = field(default_factory=list)

    def copy(self) -> Network:
        """A copy that may shrink on its own. Arrays are shared: nobody writes into them."""
        near = {u: dict(tables) for u, tables in self.near.items()}
        loads = {u: dict(loads) for u, loads in self.loads.items()}
        parts = dict(unary=dict(self.unary), strategies=dict(self.strategies), lifts=list(self.lifts))
        rows = dict(cargo=dict(self.cargo), into=self.into.copy(), still=self.still.copy(), active=self.active)
        return replace(self, near=near, loads=loads, **parts, **rows)

    def priced(self, price: Array) -> Network:
        """A copy without loads in which each byte in a row costs its price; the limit's worth comes back."""
        weight = self.weights(price)
        unary = {n: charged(cost, weight, self.loads[n].items()) for n, cost in self.unary.items()}
        near: dict[int, dict[int, Table]] = {u: {} for u in self.near}
        for u, v, table in self.pairs():
            if ids := self.cargo.get((u, v), ()):
                cost = charged(table.cost, weight, zip(ids, table.held))
                table = Table(table.row, table.col, cost) if cost is not table.cost else self.memo(_bare, table)
            near[u][v], near[v][u] = table, table.T
        constant = self.constant + float(self.still @ weight)
        if self.memory is not None and self.memory.rows:
            constant -= float(price.sum() * self.memory.limit)
        parts = dict(strategies=dict(self.strategies), lifts=list(self.lifts), cargo={}, memory=None)
        return replace(self, unary=unary, near=near, loads={u: {} for u in unary}, constant=constant, **parts)

    def costless(self) -> Network:
        """A copy in which all that is possible is free."""
        near: dict[int, dict[int, Table]] = {u: {} for u in self.near}
        for u, v, table in self.pairs():
            near[u][v] = self.memo(_free_table, table)
            near[v][u] = near[u][v].T
        unary = {n: self.memo(np.zeros_like, cost) for n, cost in self.unary.items()}
        return replace(self.copy(), unary=unary, near=near, constant=0.0)

    def pairs(self) -> Iterable[tuple[int, int, Table]]:
        """Each pair once, lower node first."""
        return ((u, v, table) for u in sorted(self.near) for v, table in sorted(self.near[u].items()) if u < v)

    def spans(self) -> Iterable[tuple[int, float, float]]:
        """Each load that varies, its least and its most bytes; on a pair those of what is possible."""
        for loads in self.loads.values():
            yield from ((i, float(held.min()), float(held.max())) for i, held in loads.items())
        for (u, v), ids in self.cargo.items():
            yield from ((i, *span) for i, span in zip(ids, self.near[u][v].spans))

    def loaded(self) -> bool:
        """Whether anything left holds bytes that vary."""
        return any(self.loads.values()) or bool(self.cargo)

    def roots(self) -> Array:
        """The load that stands for each load of the problem."""
        while (self.into[self.into] != self.into).any():
            self.into = self.into[self.into]
        return self.into[:-1]

    def weights(self, price: Array) -> Array:
        """What a byte of each load that stands for others costs in all their rows."""
        if self.memory is None:
            return np.zeros(len(self.still))
        return np.bincount(self.roots(), self.memory.weights(price), len(self.still))

    def totals(self, held: Array) -> Array:
        """Bytes of each row, when the loads that stand for others hold `held`, with what is settled."""
        assert self.memory is not None
        return self.memory.totals((held + self.still)[self.roots()])

    def hold(self, n: int, load: int, bytes_of: Array) -> None:
        """Give node `n` a load; if it holds the same bytes already, that one counts for both."""
        if bytes_of.min() == bytes_of.max():
            self.still[load] += bytes_of[0]
            return
        twin = next((i for i, known in self.loads[n].items() if known is bytes_of), None)
        if twin is None:
            self.loads[n][load] = bytes_of
        else:
            self.into[load] = twin

    def put(self, u: int, v: int, table: Table, ids: tuple[int, ...] = ()) -> None:
        """Make `table` all there is between a pair; `ids` are its loads."""
        if u > v:
            u, v, table = v, u, table.T
        self.near[u][v], self.near[v][u] = table, table.T
        if ids:
            self.cargo[u, v] = ids

    def carried(self, u: int, v: int) -> tuple[int, ...]:
        """The loads on a pair."""
        return self.cargo.get((min(u, v), max(u, v)), ())

    def join(self, u: int, v: int, table: Table, ids: tuple[int, ...] = ()) -> None:
        """Add a table to a pair."""
        if v in self.near[u]:
            table, ids = self.memo(add, self.near[u][v], table), self.carried(u, v) + ids
        self.put(u, v, table, ids)

    def restrict(self, n: int, kept: Array) -> None:
        """Keep only the strategies of node `n` in `kept` (mask over those left)."""
        if kept.all():
            return
        if not kept.any():
            raise Impossible
        kept, memo = self.memo.one(kept), self.memo
        self.unary[n], self.strategies[n] = memo(_pick, self.unary[n], kept), memo(_pick, self.strategies[n], kept)
        loads, self.loads[n] = self.loads[n], {}
        for i, bytes_of in loads.items():
            self.hold(n, i, memo(_pick, bytes_of, kept))
        for m, table in list(self.near[n].items()):
            self.put(n, m, memo(take, table, kept))

    def drop(self, n: int) -> None:
        """Remove a node and its tables; loads must have been moved."""
        for m in self.near.pop(n):
            del self.near[m][n]
            self.cargo.pop((min(n, m), max(n, m)), None)
        del self.unary[n], self.strategies[n], self.loads[n]

    def lift(self, choice: dict[int, int]) -> tuple[int, ...]:
        """Complete a choice (positions among the strategies left) to one of the whole problem."""
        full = [0] * self.size
        for n, s in choice.items():
            full[n] = int(self.strategies[n][s])
        for lift in reversed(self.lifts):
            lift(full)
        return tuple(full)

    def holds(self, choice: tuple[int, ...]) -> bool:
        """Whether all that is left of a choice of the whole problem still can be chosen."""
        return all(choice[n] in left for n, left in self.strategies.items())

    def positions(self, whole: tuple[int, ...]) -> dict[int, int]:
        """What is left of a choice of the whole problem, as `lift` takes it; of strategies that are gone the first."""
        return {n: int(np.searchsorted(left, whole[n])) % len(left) for n, left in self.strategies.items()}


def charged(cost: Array, weight: Array, loads: Iterable[tuple[int, Array]]) -> Array:
    """A cost with what bytes cost; the very same array where they cost nothing, so that what is known of it serves."""
    prices = [weight[i] * held for i, held in loads if weight[i]]
    return cost + sum(prices) if prices else cost


def _bare(table: Table) -> Table:
    return Table(table.row, table.col, table.cost)


def _free_table(table: Table) -> Table:
    return Table(table.row, table.col, np.where(table.possible, 0.0, np.inf), table.held)


def _pick(a: Array, kept: Array) -> Array:
    return a[kept]


def network(problem: Problem, memory: Memory | None = None, known: Memo | None = None) -> Network:
    """The whole problem, with the loads that the rows of `memory` count."""
    nodes, loads, memo = len(problem.cost), len(problem.cost) + len(problem.edges), known or Memo()
    counted = memory.counted & ~memory.light if memory else np.zeros(loads, bool)
    net = Network(
        unary=dict(enumerate(map(memo.one, problem.cost))),
        near={n: {} for n in range(nodes)},
        strategies={n: memo.one(np.arange(len(cost))) for n, cost in enumerate(problem.cost)},
        loads={n: {} for n in range(nodes)},
        cargo={},
        memory=memory,
        into=np.arange(loads + 1),
        still=np.append(np.where(memory.light, memory.least, 0.0), 0.0) if memory else np.zeros(loads + 1),
        active=np.ones(memory.rows if memory else 0, bool),
        size=nodes,
        memo=memo,
    )
    for n in np.flatnonzero(counted[:nodes]).tolist():
        net.hold(n, n, memo.one(np.asarray(problem.usage[n], float)))
    for e, edge in enumerate(problem.edges):
        loaded = edge.usage is not None and counted[nodes + e]
        table = memo(compact, edge.row, edge.col, edge.cost, *([edge.usage] if loaded else []))
        net.join(edge.u, edge.v, table, (nodes + e,) if loaded else ())
    for n, cost in enumerate(problem.cost):
        net.restrict(n, np.isfinite(cost))
    return net


def dearest(net: Network) -> float:
    """No possible choice costs more."""
    tables = sum(float(table.cost[table.possible].max()) for _, _, table in net.pairs())
    return net.constant + sum(float(cost.max()) for cost in net.unary.values()) + tables
