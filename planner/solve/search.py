"""Plain descent: change one node at a time for as long as that helps. Finds nothing clever, repairs what is silly."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from .network import Array, Network, charged

FREE = np.zeros(0)
ROUNDS = 20


def conditional(net: Network, choice: dict[int, int], n: int, weight: Array = FREE) -> Array:
    """Seconds of each strategy of `n`, the rest of a choice being what it is; `weight` is what bytes cost, by load."""
    total = net.unary[n].copy()
    if len(weight):
        total = charged(total, weight, net.loads[n].items())
    for m, table in net.near[n].items():
        at = table.row, table.col[choice[m]]
        held = zip(net.carried(n, m), (held[at] for held in table.held)) if len(weight) else ()
        total += charged(table.cost[at], weight, held)
    return total


def descend(net: Network, choice: dict[int, int], weight: Array = FREE) -> dict[int, int]:
    """The choice after changing single nodes, in order, until none gets cheaper."""
    choice = dict(choice)
    queue = OrderedDict.fromkeys(sorted(net.unary))
    for _ in range(ROUNDS * len(queue)):
        if not queue:
            break
        n, _ = queue.popitem(last=False)
        total = conditional(net, choice, n, weight)
        best = int(total.argmin())
        if total[best] < total[choice[n]]:
            choice[n] = best
            queue |= dict.fromkeys(sorted(net.near[n]))
    return choice


def value(net: Network, choice: dict[int, int]) -> float:
    """Seconds of a choice of what is left, with what is settled."""
    nodes = sum(float(net.unary[n][s]) for n, s in choice.items())
    tables = sum(float(t.cost[t.row[choice[u]], t.col[choice[v]]]) for u, v, t in net.pairs())
    return net.constant + nodes + tables
