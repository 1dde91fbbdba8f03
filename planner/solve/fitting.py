"""What the memory limit alone rules out: a strategy whose bytes leave no room for the least of everything else.

Afterwards a row that cannot run over the limit any more is dropped, and so are the bytes that no row counts: the nodes
that held them may be minimised out.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .marginals import cells
from .network import Array, Impossible, Network
from .simplify import DENSE, simplify
from .trws import ROUNDING


def fit(net: Network, limit: float) -> Network:
    """Shrink `net` in place by its memory rows and everything else, until nothing more applies; also returned.

    Raises:
        Impossible: Nothing fits.
    """
    while _narrow(net, limit) | _loosen(net, limit):
        simplify(net, dominance=cells(net) <= DENSE)
    return net


def _ranges(net: Network) -> tuple[Array, Array]:
    """The least and the most bytes of each load."""
    least, top = np.zeros(net.member.shape[1]), np.zeros(net.member.shape[1])
    held = [loads for loads in net.loads.values()] + [t.loads for _, _, t in net.pairs()]
    for i, b in (item for loads in held for item in loads.items()):
        least[i], top[i] = b.min(), b.max()
    return least, top


def most(net: Network, limit: float) -> Array:
    """The most bytes of each load beside the least of all others; infinite where no row counts it."""
    least, _ = _ranges(net)
    room = limit * (1 + ROUNDING) - net.base - net.member @ least
    return least + np.where(net.member > 0, room[:, None], np.inf).min(axis=0, initial=np.inf)


def _narrow(net: Network, limit: float) -> bool:
    """Remove the strategies and pairs of specs that cannot fit; say whether any went."""
    least, _ = _ranges(net)
    room = limit * (1 + ROUNDING) - net.base - net.member @ least
    if (room < 0).any():
        raise Impossible
    strategies = sum(len(cost) for cost in net.unary.values())
    for n in sorted(net.unary):
        if net.loads[n]:
            more = sum(np.outer(net.member[:, i], b - least[i]) for i, b in net.loads[n].items())
            kept: Array = np.all(more <= room[:, None], axis=0)
            net.restrict(n, kept)
    spare = most(net, limit)
    pairs = [_narrow_pair(net, u, v, least, spare) for u, v, table in list(net.pairs()) if table.loads]
    return any(pairs) or sum(len(cost) for cost in net.unary.values()) < strategies


def _narrow_pair(net: Network, u: int, v: int, least: Array, spare: Array) -> bool:
    table = net.near[u][v]
    gone = np.zeros(table.cost.shape, bool)
    for i, b in table.loads.items():
        gone |= b > spare[i]
    gone &= np.isfinite(table.cost)
    if not gone.any():
        return False
    loads = {i: np.where(gone, least[i], b) for i, b in table.loads.items()}
    net.near[u][v] = replace(table, cost=np.where(gone, np.inf, table.cost), loads=loads)
    net.near[v][u] = net.near[u][v].T
    return True


def _loosen(net: Network, limit: float) -> bool:
    """Drop the rows that always fit and the loads that no row counts; say whether any load went."""
    _, top = _ranges(net)
    fits: Array = net.base + net.member @ top <= limit * (1 - ROUNDING)
    net.member = np.where(fits[:, None], 0.0, net.member)
    net.base = np.where(fits, limit, net.base)
    counted: Array = np.any(net.member, axis=0)
    idle = [n for n, loads in net.loads.items() if not all(counted[i] for i in loads)]
    for n in idle:
        net.loads[n] = {i: b for i, b in net.loads[n].items() if counted[i]}
    slack = [(u, v, t) for u, v, t in net.pairs() if not all(counted[i] for i in t.loads)]
    for u, v, table in slack:
        net.near[u][v] = replace(table, loads={i: b for i, b in table.loads.items() if counted[i]})
        net.near[v][u] = net.near[u][v].T
    return bool(idle or slack)
