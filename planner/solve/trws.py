"""Lower bounds by sequential tree-reweighted message passing (TRW-S, Kolmogorov 2006).

A message moves cost from a table to one of its nodes; the objective of every choice stays what it is. Whatever the
messages, the sum of the least entry of every node and table is a lower bound, so stopping early or reusing the messages
of similar costs is safe. A pass over the nodes (in order, or in reverse) collects from the tables behind each node and
shares the node's costs out over the tables ahead. Just when a node has collected, its tables' least entries are
zero for each of its strategies, so its costs say how far
each strategy alone lifts the bound: its reduced costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .network import Array, Network
from .table import Table

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

    def collect(self, sent: Array, scratch: Array) -> Array:
        """What the table can give each strategy of `here`, after `sent` went to `there`; `scratch` has room for it."""
        spare = -sent
        if self.order is not None:
            spare = np.minimum.reduceat(spare[self.order], self.starts)
        total = scratch[: self.cost.size].reshape(self.cost.shape)
        return np.minimum.reduce(np.add(self.cost, spare[:, None], out=total), axis=0)[self.index]


def _link(there: int, here: int, table: Table) -> _Link:
    """`table` is seen from `there`."""
    return _Link(there, here, np.ascontiguousarray(table.cost), table.col, *table.grouped)


@dataclass(frozen=True)
class _Leaf:
    """A node that hangs on one other, folded into it: `given` is what that one's strategies pay for it at best."""

    node: int
    parent: int
    cost: Array
    table: Table
    given: Array

    def without(self, floor: Array) -> Array:
        """The parent's bounds without what the leaf costs it; infinite where it has no partner in the leaf."""
        alone = np.isinf(self.given)
        return np.where(alone, np.inf, floor - np.where(alone, 0.0, self.given))

    def cells(self, floor: Array) -> Array:
        """A bound on all choices per cell of the table, from those of the parent's strategies."""
        left = _least(self.cost, self.table.row, self.table.cost.shape[0])
        right = _least(self.without(floor), self.table.col, self.table.cost.shape[1])
        return left[:, None] + self.table.cost + right

    def floor(self, floor: Array) -> Array:
        """A bound on all choices per strategy of the leaf."""
        right = _least(self.without(floor), self.table.col, self.table.cost.shape[1])
        return self.cost + (self.table.cost + right).min(axis=1)[self.table.row]


class Messages:
    """Messages on a network without loads, the bound they prove and the reduced costs they show.

    Leaves are folded into what they hang on first, again and again: a message that had to share its cost with them
    would fade on its way.

    Attributes:
        sent: By (from, to), the cost that the table of a pair gave to the strategies of the second node.
        bound: The best lower bound so far, already rounded down. Never above the optimum.
        floor: By node, a lower bound on all choices in which it takes each of its strategies; leaves have theirs after
            `settle`.
    """

    def __init__(self, net: Network, sent: dict[tuple[int, int], Array] | None = None) -> None:
        """Start from `sent` (of a network with the same strategies), or from nothing."""
        self.net, self.unary = net, dict(net.unary)
        self.leaves = self._peel()
        hung = {leaf.node for leaf in self.leaves}
        self.order = sorted(n for n in net.unary if n not in hung)
        near = {n: [m for m in sorted(net.near[n]) if m not in hung] for n in self.order}
        self.links = {n: [_link(m, n, net.near[n][m].T) for m in near[n]] for n in self.order}
        cells = (link.cost.size for links in self.links.values() for link in links)
        self._scratch = np.empty(max(cells, default=0))
        self._turns = {ahead: {n: self._turn(n, ahead) for n in self.order} for ahead in (True, False)}
        known = sent or {}
        zeros = {n: np.zeros(len(self.unary[n])) for n in self.order}
        self.sent = {(m, n): known.get((m, n), zeros[n]) for n in self.order for m in near[n]}
        self.bound = -np.inf
        self.floor = {n: np.full(len(cost), -np.inf) for n, cost in net.unary.items()}
        self._slack = 1e-3 * ROUNDING * sum(float(np.abs(cost).max()) for cost in net.unary.values())
        self._value = self._sum_of_least()
        self._last: tuple[float, dict[int, Array]] = (-np.inf, {})

    def _peel(self) -> list[_Leaf]:
        left = {n: set(near) for n, near in self.net.near.items()}
        leaves, queue = [], [n for n in sorted(left) if len(left[n]) == 1]
        while queue:
            n = queue.pop()
            if len(left[n]) != 1:
                continue
            (m,) = left.pop(n)
            left[m].remove(n)
            table = self.net.near[n][m]
            given = (table.cost + _least(self.unary[n], table.row, len(table.cost))[:, None]).min(axis=0)[table.col]
            leaves.append(_Leaf(n, m, self.unary[n], table, given))
            self.unary[m] = self.unary[m] + given
            left[n] = set()
            queue += [m] if len(left[m]) == 1 else []
        return leaves

    def carried(self, net: Network) -> dict[tuple[int, int], Array]:
        """The messages for what is left in `net` of the network."""
        kept = {n: np.isin(self.net.strategies[n], left) for n, left in net.strategies.items()}
        return {(m, n): sent[kept[n]] for (m, n), sent in self.sent.items() if m in kept and n in kept}

    def settle(self) -> None:
        """Bring the floors of the leaves up to date."""
        for leaf in reversed(self.leaves):
            self.floor[leaf.node] = np.maximum(self.floor[leaf.node], leaf.floor(self.floor[leaf.parent]))

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

    def _turn(self, n: int, ahead: bool) -> tuple[list[tuple[int, int]], list[_Link | None], float]:
        """The keys of a node's messages in order, the links to collect from (None where it gives), and its share."""
        links = self.links[n]
        behind = [None if (link.there > n) == ahead else link for link in links]
        onward = behind.count(None)
        return [(link.there, n) for link in links], behind, 1 / max(onward, len(links) - onward, 1)

    def _visit(self, n: int, ahead: bool, reduced: dict[int, Array]) -> float:
        """Collect from behind, share out ahead; returns the least cost that stays at the node."""
        total, sent = self.unary[n].copy(), self.sent
        keys, behind, share = self._turns[ahead][n]
        onward = []
        for key, link in zip(keys, behind):
            if link is None:
                onward.append(key)
            else:
                sent[key] = link.collect(sent[n, link.there], self._scratch)
            total += sent[key]
        least = float(np.minimum.reduce(total))
        reduced[n] = total - least
        given = share * total
        for key in onward:
            sent[key] = sent[key] - given
        return (1 - share * len(onward)) * least

    def _lowered(self, value: float) -> float:
        return value - ROUNDING * abs(value) - self._slack

    def _sum_of_least(self) -> float:
        value = self.net.constant
        for n in self.order:
            value += float((self.unary[n] + sum(self.sent[link.there, n] for link in self.links[n])).min())
            for link in self.links[n]:
                if link.there < n:
                    given = link.collect(self.sent[n, link.there], self._scratch)
                    value += float((given - self.sent[link.there, n]).min())
        return value

    def round(self) -> dict[int, int]:
        """A choice, node after node: the best one given the nodes before, with messages for the nodes after."""
        choice: dict[int, int] = {}
        for n in self.order:
            total = self.unary[n].copy()
            for link in self.links[n]:
                m, table = link.there, self.net.near[n][link.there]
                total += table.cost[table.row, table.col[choice[m]]] if m in choice else self.sent[m, n]
            choice[n] = int(total.argmin())
        for leaf in reversed(self.leaves):
            at = leaf.table.col[choice[leaf.parent]]
            choice[leaf.node] = int((leaf.cost + leaf.table.cost[leaf.table.row, at]).argmin())
        return choice

    def cells(self) -> dict[tuple[int, int], Array]:
        """For each pair, after a sweep: a lower bound on all choices that show specs p and q, shape [p, q].

        When the pass back visited u < v, u and the table were the last to hold cost of their own, and neither message
        between u and v has changed since.
        """
        before, reduced = self._last
        out = {(f.node, f.parent): f.cells(self.floor[f.parent]) for f in self.leaves}
        for v in self.order:
            for u in (link.there for link in self.links[v] if link.there < v):
                table = self.net.near[u][v]
                left = _least(reduced[u] - self.sent[v, u], table.row, table.cost.shape[0])
                right = _least(-self.sent[u, v], table.col, table.cost.shape[1])
                out[u, v] = before + table.cost + left[:, None] + right
        return out


def _least(values: Array, group: Array, groups: int) -> Array:
    out = np.full(groups, np.inf)
    np.minimum.at(out, group, values)
    return out
