"""Plain descent: change one node at a time for as long as that helps. Finds nothing clever, repairs what is silly."""

from __future__ import annotations

from collections import OrderedDict

from .network import Array, Network


def conditional(net: Network, choice: dict[int, int], n: int) -> Array:
    """Seconds of each strategy of `n`, the rest of the choice being what it is."""
    total = net.unary[n].copy()
    for m, table in net.near[n].items():
        total += table.cost[table.row, table.col[choice[m]]]
    return total


def descend(net: Network, choice: dict[int, int], rounds: int = 20) -> dict[int, int]:
    """The choice after changing single nodes, in order, until none gets cheaper."""
    choice = dict(choice)
    queue = OrderedDict.fromkeys(sorted(net.unary))
    for _ in range(rounds * len(queue)):
        if not queue:
            break
        n, _ = queue.popitem(last=False)
        total = conditional(net, choice, n)
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
