"""Branching on bytes: where prices leave a gap, a load is either small or large, and each case is priced again.

A case rules out what does not fit beside it (`fitting`), and often leaves no row that could run over: then memory is no
object any more. Cases of the least bound come first, so that the bound of the whole rises as fast as it can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush

import numpy as np

from .fitting import fit, most
from .free import NODES, WIDE, Effort
from .limited import WINDOWS, look
from .neighbours import wander
from .network import Array, Impossible, Network
from .prices import CELLS, Labour, Pricing
from .simplify import simplify

CASES = 40  # most cases at work 1
PATIENCE = 20  # times the labour for a proof, for choices while the gap is wide
FIRST, ROUNDS = 16, 8  # of new prices, of the whole and in a case
SMALL, LARGE = 0.5, 4.0  # of the largest program: in the first cases, and where splitting does not help any more
HELPS = 0.2  # share of what is open by which the bound of a case that splitting helps rises


def minimise_within(pricing: Pricing, effort: Effort, known: float = -np.inf) -> float:
    """Improve the best choice of a pricing towards the optimum within the limit; returns the bound.

    Where the gap to the bound is wide, better choices are worth more than better bounds, and come first, until it is
    not.
    """
    best = pricing.best
    known = known if best.seconds < np.inf else max(known, look(pricing, effort))
    if best.wide(known):
        patient = replace(pricing, labour=Labour(PATIENCE * effort.labour))
        patient.ascend(FIRST)
        patient.squeeze()
        pricing.bound, pricing.price, pricing.sent = patient.bound, patient.price, patient.sent
        known = max(known, pricing.bound)
    wide = best.seconds < np.inf and best.wide(known)
    if wide:
        wander(pricing, known, effort, known + WIDE * abs(known))
    bound = cases(pricing, effort, known)
    if not wide and best.seconds < np.inf:
        wander(pricing, bound, effort)
    return min(best.seconds, bound)


def cases(whole: Pricing, effort: Effort, known: float = -np.inf) -> float:
    """Split, best bound first, until nothing is left or work runs out; returns the bound."""
    best, count = whole.best, 0
    windows = WINDOWS[-1:] if best.seconds < np.inf else WINDOWS
    bound, closed = max(known, look(whole, replace(effort, size=SMALL), FIRST, windows)), np.inf
    cases = [(bound, 0, SMALL, whole)]
    for _ in range(max(1, CASES * effort.nodes // NODES)):
        if not cases or best.proven(cases[0][0]) or whole.labour.left < 0:
            break
        known, at, size, case = heappop(cases)
        bound = max(known, look(case, replace(effort, size=size), ROUNDS, WINDOWS[-1:])) if at else known
        children = [] if best.proven(bound) else split(case)
        closed = closed if children else min(closed, bound)
        helps = not at or bound - known > HELPS * (best.seconds - known)
        for child in children:
            count += 1
            heappush(cases, (bound, count, size if helps else min(LARGE, 2 * size), child))
    return min(best.seconds, closed, *(case[0] for case in cases))


def split(pricing: Pricing) -> list[Pricing]:
    """The cases in which one load holds at most some bytes, and more; those that fit."""
    found = _parting(pricing)
    if found is None:
        return []
    load, middle = found
    cases = (lambda b: b <= middle), (lambda b: b > middle)
    return [child for child in (_case(pricing, load, holds) for holds in cases) if child]


def _parting(pricing: Pricing) -> tuple[int, float] | None:
    """The load on which the choices in the best mix differ by the most seconds, and its mean; else any that varies."""
    varies = _varying(pricing.net)
    if not varies:
        return None
    weight = pricing.net.weights(pricing.price)
    shares = pricing.mix()[2] if pricing.columns else ()
    mixed = [(share, c) for share, c in zip(shares, pricing.columns) if share > 1e-6]
    held = np.array([pricing.memory.held(c) for _, c in mixed]).reshape(len(mixed), len(weight) - 1)
    share = np.array([s for s, _ in mixed])
    mean = share @ held / max(share.sum(), 1e-6)
    apart = share @ np.abs(held - mean) * weight[:-1]
    best = max(varies, key=lambda i: (apart[i], weight[i] * (varies[i][1] - varies[i][0]), -i))
    low, high = varies[best]
    return best, float(mean[best]) if low <= mean[best] < high and apart[best] > 0 else (low + high) / 2


def _varying(net: Network) -> dict[int, tuple[float, float]]:
    """The least and the most bytes of each load that varies."""
    return {i: (low, high) for i, low, high in sorted(net.spans()) if low < high}


def _case(pricing: Pricing, load: int, holds: Callable[[Array], Array]) -> Pricing | None:
    net = pricing.net.copy()
    try:
        keep(net, load, holds)
        room = most(net, pricing.memory.limit)
        fit(simplify(net, CELLS, dominance=False), pricing.memory.limit)
    except Impossible:
        return None
    held = {c: pricing.memory.held(c) for c in pricing.columns}
    inside = [c for c, b in held.items() if holds(b[load]) and (b <= room[:-1]).all() and net.holds(c)]
    columns = {c: pricing.columns[c] for c in inside}
    return replace(pricing, net=net, bound=-np.inf, price=pricing.price.copy(), sent={}, columns=columns)


def keep(net: Network, load: int, holds: Callable[[Array], Array]) -> None:
    """Remove what gives a load other bytes."""
    for n, loads in net.loads.items():
        if load in loads:
            net.restrict(n, holds(loads[load]))
            return
    for (u, v), ids in list(net.cargo.items()):
        if load in ids:
            table = net.near[u][v]
            cost = np.where(holds(table.held[ids.index(load)]), table.cost, np.inf)
            net.put(u, v, replace(table, cost=cost), ids)
            return
