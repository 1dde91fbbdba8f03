"""What the memory limit alone rules out: a strategy whose bytes leave no room for the least of everything else.

Afterwards a row that cannot run over the limit any more is dropped, and so are the bytes that no row counts: the nodes
that held them may be minimised out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .marginals import cells
from .memory import lowest
from .network import Array, Impossible, Network
from .simplify import DENSE, simplify
from .trws import ROUNDING


def fit(net: Network, limit: float, dominance: bool = True) -> Network:
    """Shrink `net` in place by its memory rows and everything else, until nothing more applies; also returned.

    Args:
        net: What to shrink.
        limit: Of each row.
        dominance: Whether to remove dominated strategies too, where looking for them is quick.

    Raises:
        Impossible: Nothing fits.
    """
    while _narrow(net, limit) | _loosen(net, limit):
        simplify(net, dominance=dominance and cells(net) <= DENSE)
    return net


def ranges(net: Network) -> tuple[Array, Array]:
    """The least and the most bytes of each load."""
    least, top = np.zeros(len(net.still)), np.zeros(len(net.still))
    for i, low, high in net.spans():
        if low > high:
            raise Impossible
        least[i], top[i] = low, high
    return least, top


def crowded(net: Network, limit: float) -> bool:
    """Whether the least of everything is already too much."""
    return bool((_room(net, limit, ranges(net)[0]) < 0).any())


def _room(net: Network, limit: float, least: Array) -> Array:
    """Bytes that each row has left beside the least of everything."""
    return np.where(net.active, limit * (1 + ROUNDING) - net.totals(least), np.inf)


def most(net: Network, limit: float) -> Array:
    """The most bytes of each load beside the least of all others; infinite where no row counts it."""
    least, _ = ranges(net)
    return least + _spare(net, _room(net, limit, least))


def _spare(net: Network, room: Array) -> Array:
    memory, out = net.memory, np.full(len(net.still), np.inf)
    if memory is not None and memory.rows:
        np.minimum.at(out, net.roots()[memory.load], lowest(room, memory.start, memory.stop))
    return out


def _narrow(net: Network, limit: float) -> bool:
    """Remove the strategies and pairs of specs that cannot fit; say whether any went."""
    least, _ = ranges(net)
    room = _room(net, limit, least)
    if (room < 0).any():
        raise Impossible
    strategies = sum(len(cost) for cost in net.unary.values())
    for n, counts, space in _segments(net, room):
        more = np.array([held - least[i] for i, held in net.loads[n].items()])
        kept: Array = np.all(counts @ more <= space[:, None], axis=0)
        net.restrict(n, kept)
    spare = _spare(net, room)
    pairs = [_narrow_pair(net, u, v, least, spare) for u, v in list(net.cargo)]
    return any(pairs) or sum(len(cost) for cost in net.unary.values()) < strategies


def _segments(net: Network, room: Array) -> Iterator[tuple[int, Array, Array]]:
    """For each node with loads: how often each counts in runs of rows, [runs, loads], and the least room there."""
    memory = net.memory
    if memory is None or not memory.rows:
        return
    root = net.roots()[memory.load]
    order = np.argsort(root, kind="stable")
    begin = np.searchsorted(root[order], np.arange(len(net.still) + 1))
    for n in sorted(n for n, loads in net.loads.items() if loads):
        mine = [order[begin[i] : begin[i + 1]] for i in net.loads[n]]
        edges = np.unique(np.concatenate([memory.start[np.concatenate(mine)], memory.stop[np.concatenate(mine)]]))
        counts = np.zeros((len(edges), len(mine)))
        for column, at in enumerate(mine):
            np.add.at(counts[:, column], np.searchsorted(edges, memory.start[at]), 1.0)
            np.subtract.at(counts[:, column], np.searchsorted(edges, memory.stop[at]), 1.0)
        yield n, counts.cumsum(axis=0)[:-1], np.minimum.reduceat(np.append(room, np.inf), edges)[:-1]


def _narrow_pair(net: Network, u: int, v: int, least: Array, spare: Array) -> bool:
    table, ids = net.near[u][v], net.cargo[u, v]
    gone = np.zeros(table.cost.shape, bool)
    for i, b in zip(ids, table.held):
        gone |= b > least[i] + spare[i]
    gone &= table.possible
    if not gone.any():
        return False
    held = tuple(np.where(gone, least[i], b) for i, b in zip(ids, table.held))
    net.put(u, v, replace(table, cost=np.where(gone, np.inf, table.cost), held=held), ids)
    return True


def _loosen(net: Network, limit: float) -> bool:
    """Drop the rows that always fit and the loads that no row counts; say whether any load went."""
    _, top = ranges(net)
    net.active = net.active & ~(net.totals(top) <= limit * (1 - ROUNDING))
    counted = net.weights(net.active.astype(float)) > 0
    idle = [n for n, loads in net.loads.items() if not all(counted[i] for i in loads)]
    for n in idle:
        net.loads[n] = {i: b for i, b in net.loads[n].items() if counted[i]}
    slack = [pair for pair, ids in net.cargo.items() if not all(counted[i] for i in ids)]
    for u, v in slack:
        ids, table = net.cargo.pop((u, v)), net.near[u][v]
        kept = [(i, b) for i, b in zip(ids, table.held) if counted[i]]
        net.put(u, v, replace(table, held=tuple(b for _, b in kept)), tuple(i for i, _ in kept))
    return bool(idle or slack)
