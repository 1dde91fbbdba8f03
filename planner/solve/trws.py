"""Lower bounds by sequential tree-reweighted message passing (TRW-S, Kolmogorov 2006).

A message moves cost from a table to one of its nodes; the objective of every choice stays what it is. Whatever the
messages, the sum of the least entry of every node and table is a lower bound, so stopping early or reusing the messages
of similar costs is safe. A pass over the nodes (in order, or in reverse) collects from the tables behind each node and
shares the node's costs out over the tables ahead. Just when a node has collected, its tables' least entries are zero for
each of its strategies, so its costs say how far each strategy alone lifts the bound: its reduced costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .network import Array, Network, Table

ROUNDING = 1e-9  # share of the magnitude that float64 sums may be off by, generously


@dataclass(frozen=True)
class _Link:
    """A table as node `here` collects from it: `cost[p, q]` over specs p of `there` and q of `here`."""

    there: int
    here: int
    cost: Array
    index: Array
    order: Array | None
    starts: Array

    def collect(self, sent: Array) -> Array:
        """What the table can give each strategy of `here`, after `sent` went to `there`."""
        spare = -sent
        if self.order is not None:
            spare = np.minimum.reduceat(spare[self.order], self.starts)
        return (self.cost + spare[:, None]).min(axis=0)[self.index]


def _link(there: int, here: int, table: Table) -> _Link:
    """`table` is seen from `there`."""
    distinct = len(table.cost) == len(table.row) and (np.diff(table.row) > 0).all()
    order = None if distinct else np.argsort(table.row, kind="stable")
    starts = np.searchsorted(table.row if order is None else table.row[order], np.arange(len(table.cost)))
    return _Link(there, here, np.ascontiguousarray(table.cost), table.col, order, starts)


class Messages:
    """Messages on a network without loads, the bound they prove and the reduced costs they show.

    Attributes:
        bound: The best lower bound so far, already rounded down. Never above the optimum.
        floor: By node, a lower bound on all choices in which it takes each of its strategies.
    """

    def __init__(self, net: Network, sent: dict[tuple[int, int], Array] | None = None) -> None:
        """Start from `sent` (of a network with the same strategies), or from nothing."""
        self.net = net
        self.order = sorted(net.unary)
        self.links = {n: [_link(m, n, net.near[n][m].T) for m in sorted(net.near[n])] for n in self.order}
        self.sent = {(m, n): np.zeros(len(net.unary[n])) for n in self.order for m in net.near[n]}
        self.sent |= sent or {}
        self.bound = -np.inf
        self.floor = {n: np.full(len(cost), -np.inf) for n, cost in net.unary.items()}
        self._slack = ROUNDING * sum(float(np.abs(cost).max()) for cost in net.unary.values())
        self._value = self._sum_of_least()
        self._last: tuple[float, dict[int, Array]] = (-np.inf, {})

    def sweep(self) -> float:
        """One pass forth and one back; returns the bound."""
        for order, ahead in ((self.order, True), (self.order[::-1], False)):
            before, reduced = self._lowered(self._value), {}
            self._value = self.net.constant + sum(self._visit(n, ahead, reduced) for n in order)
            self.bound = max(self.bound, before, self._lowered(self._value))
            self._last = before, reduced
            for n, now in reduced.items():
                self.floor[n] = np.maximum(self.floor[n], before + now)
        return self.bound

    def _visit(self, n: int, ahead: bool, reduced: dict[int, Array]) -> float:
        """Collect from behind, share out ahead; returns the least cost that stays at the node."""
        total = self.net.unary[n].copy()
        onward = []
        for link in self.links[n]:
            key = (link.there, n)
            if (link.there > n) == ahead:
                onward.append(key)
            else:
                self.sent[key] = link.collect(self.sent[n, link.there])
            total += self.sent[key]
        least = float(total.min())
        reduced[n] = total - least
        share = 1 / max(len(onward), len(self.links[n]) - len(onward), 1)
        for key in onward:
            self.sent[key] = self.sent[key] - share * total
        return (1 - share * len(onward)) * least

    def _lowered(self, value: float) -> float:
        return value - ROUNDING * abs(value) - self._slack * 1e-3

    def _sum_of_least(self) -> float:
        value = self.net.constant
        for n in self.order:
            value += float((self.net.unary[n] + sum(self.sent[m, n] for m in self.net.near[n])).min())
            for link in self.links[n]:
                if link.there < n:
                    value += float((link.collect(self.sent[n, link.there]) - self.sent[link.there, n]).min())
        return value

    def round(self) -> dict[int, int]:
        """A choice, node after node: the best one given the nodes before, with messages for the nodes after."""
        choice: dict[int, int] = {}
        for n in self.order:
            total = self.net.unary[n].copy()
            for m, table in self.net.near[n].items():
                total += table.cost[table.row, table.col[choice[m]]] if m in choice else self.sent[m, n]
            choice[n] = int(total.argmin())
        return choice

    def cells(self, u: int, v: int) -> Array:
        """For u < v and after a sweep: a lower bound on all choices that show specs p and q, shape [p, q].

        When the pass back visited u, u and the table were the last to hold cost of their own, and neither message
        between u and v has changed since.
        """
        before, reduced = self._last
        table = self.net.near[u][v]
        left = _least(reduced[u] - self.sent[v, u], table.row, table.cost.shape[0])
        right = _least(-self.sent[u, v], table.col, table.cost.shape[1])
        return before + table.cost + left[:, None] + right


def _least(values: Array, group: Array, groups: int) -> Array:
    out = np.full(groups, np.inf)
    np.minimum.at(out, group, values)
    return out
