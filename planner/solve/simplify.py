"""Exact shrinking of a network, each step with the way back.

Impossible pairs remove strategies (arc consistency), nodes of degree 0, 1 and 2 are minimised out (R0, R1, R2 of
partitioned boolean quadratic programming, Scholz and Eckstein 2002), a node that another one determines is merged into
it, and dominated strategies go (Goldstein 1994). A node that still holds varying bytes is never minimised out.
"""

from __future__ import annotations

import numpy as np

from .network import Array, Impossible, Network, Table, joint

CELLS = 1 << 21  # most cells a degree-two elimination may look at
DENSE = 1 << 19  # most cells in all at which looking for dominated strategies is quick


def simplify(net: Network, cells: int = CELLS, dominance: bool = True) -> Network:
    """Shrink `net` in place until nothing more applies.

    Args:
        net: What to shrink; also returned.
        cells: Most cells that eliminating a node of degree two may look at.
        dominance: Whether to remove dominated strategies too, which costs the most.

    Raises:
        Impossible: No choice of finite cost exists.
    """
    queue = dict.fromkeys(sorted(net.unary))
    while queue:
        n = next(iter(queue))
        del queue[n]
        if n in net.unary:
            queue |= dict.fromkeys(_visit(net, n, cells, dominance))
    return net


def _visit(net: Network, n: int, cells: int, dominance: bool) -> list[int]:
    """Apply what applies to one node; return the nodes worth another look."""
    near, before = sorted(net.near[n]), len(net.unary[n])
    changed = [m for m in near if consistent(net, n, m)]
    settle(net, n)
    if eliminate(net, n, cells) or merge(net, n):
        return near
    if dominance and undominated(net, n):
        changed.append(n)
    return changed + (near if len(net.unary[n]) < before else [])


def consistent(net: Network, n: int, m: int) -> bool:
    """Remove strategies of `n` and `m` that have no possible partner in the other; say whether `m` lost any."""
    table = net.near[n][m]
    possible: Array = np.isfinite(table.cost)
    if possible.all():
        return False
    net.restrict(n, (possible.sum(axis=1) > 0)[table.row])
    kept = (possible.sum(axis=0) > 0)[table.col]
    net.restrict(m, kept)
    return not kept.all()


def settle(net: Network, n: int) -> None:
    """Move the loads of a node and its tables that no longer vary into the base of their rows."""
    for i, held in list(net.loads[n].items()):
        if held.min() == held.max():
            net.base = net.base + net.member[:, i] * held[0]
            del net.loads[n][i]
    for m, table in net.near[n].items():
        still = {i: held for i, held in table.loads.items() if held.min() == held.max()}
        for i, held in still.items():
            net.base = net.base + net.member[:, i] * held.flat[0]
        if still:
            loads = {i: held for i, held in table.loads.items() if i not in still}
            net.near[n][m] = Table(table.row, table.col, table.cost, loads)
            net.near[m][n] = net.near[n][m].T


def eliminate(net: Network, n: int, cells: int = CELLS) -> bool:
    """Minimise out a node of degree at most two that holds no varying bytes; say whether it happened."""
    if len(net.near[n]) > 2 or net.loads[n] or any(table.loads for table in net.near[n].values()):
        return False
    if len(net.near[n]) == 0:
        best = int(net.unary[n].argmin())
        net.constant += float(net.unary[n][best])
        _remember(net, n, (), np.array(best))
    elif len(net.near[n]) == 1:
        _fold_into_neighbour(net, n)
    else:
        return _fold_into_pair(net, n, cells)
    net.drop(n)
    return True


def _fold_into_neighbour(net: Network, n: int) -> None:
    (m,) = net.near[n]
    table = net.near[n][m]
    best, cheapest = _cheapest(net.unary[n], table.row, len(table.cost))
    total = cheapest[:, None] + table.cost
    spec = total.argmin(axis=0)
    _remember(net, n, (m,), best[spec][table.col])
    net.unary[m] = net.unary[m] + total.min(axis=0)[table.col]


def _fold_into_pair(net: Network, n: int, cells: int) -> bool:
    u, v = sorted(net.near[n])
    a, b = net.near[n][u], net.near[n][v]
    index, (rows, cols) = joint(a.row, b.row)
    if len(rows) * a.cost.shape[1] * b.cost.shape[1] > cells:
        return False
    best, cheapest = _cheapest(net.unary[n], index, len(rows))
    left, right = (cheapest[:, None] + a.cost[rows]).T, np.ascontiguousarray(b.cost[cols])
    cost = np.empty((len(left), right.shape[1]))
    spec = np.empty(cost.shape, np.intp)
    for p, line in enumerate(left):
        total = line[:, None] + right
        spec[p] = total.argmin(axis=0)
        cost[p] = total.min(axis=0)
    _remember(net, n, (u, v), best[spec][np.ix_(a.col, b.col)])
    net.drop(n)
    net.join(u, v, Table(a.col, b.col, cost))
    return True


def _cheapest(cost: Array, group: Array, groups: int) -> tuple[Array, Array]:
    """The cheapest strategy of each group (lowest index first), and what it costs."""
    order = np.lexsort((np.arange(len(cost)), cost, group))
    first = order[np.searchsorted(group[order], np.arange(groups))]
    return first, cost[first]


def merge(net: Network, n: int) -> bool:
    """Merge `n` into a neighbour whose strategy leaves it no choice; say whether that happened."""
    for m in sorted(net.near[n]):
        table = net.near[n][m]
        width = np.bincount(table.row, minlength=len(table.cost))
        if ((np.isfinite(table.cost) * width[:, None]).sum(axis=0) == 1).all():
            return _merge_into(net, n, m)
    return False


def _merge_into(net: Network, n: int, m: int) -> bool:
    table = net.near[n][m]
    possible = np.isfinite(table.cost)
    best, _ = _cheapest(net.unary[n], table.row, len(table.cost))
    spec = possible.argmax(axis=0)[table.col]
    image = best[spec]
    _remember(net, n, (m,), image)
    net.unary[m] = net.unary[m] + net.unary[n][image] + table.cost[spec, table.col]
    net.loads[m] |= {i: held[image] for i, held in net.loads[n].items()}
    net.loads[m] |= {i: held[spec, table.col] for i, held in table.loads.items()}
    others = {w: t for w, t in net.near[n].items() if w != m}
    net.drop(n)
    for w, t in others.items():
        net.join(m, w, Table(t.row[image], t.col, t.cost, t.loads).take(np.ones(len(image), bool)))
    return True


def undominated(net: Network, n: int) -> bool:
    """Remove strategies that another one of the node beats whatever its neighbours do; say whether any went.

    Strategy s goes if some t has `c[s] − c[t] ≥ Σ_e max_q (T_e[t, q] − T_e[s, q])` and never more bytes.
    """
    cost = net.unary[n]
    if len(cost) < 2:
        return False
    worse = cost[None, :] - cost[:, None]  # [t, s]: how much more s costs than t, at least
    for table in net.near[n].values():
        worse = worse - _most(table.cost)[np.ix_(table.row, table.row)]
    beaten = worse >= 0
    for held in net.loads[n].values():
        beaten &= held[:, None] <= held[None, :]
    for table in net.near[n].values():
        for held in table.loads.values():
            beaten &= (_most(held) <= 0)[np.ix_(table.row, table.row)]
    first = np.tri(len(cost), k=-1, dtype=bool).T  # of equals, the lowest index stays
    gone: Array = (beaten & (~beaten.T | first)).sum(axis=0) > 0
    gone &= beaten[~gone].any(axis=0)  # rounding may let strategies beat each other in a circle
    net.restrict(n, ~gone)
    return bool(gone.any())


def _most(cost: Array) -> Array:
    """How much more row p can cost than row q: max over columns, shape [p, q]. A column q rules out never counts."""
    out = np.empty((len(cost), len(cost)))
    ruled_out = np.isinf(cost)
    if not ruled_out.any():
        for p, line in enumerate(cost):
            out[p] = (line - cost).max(axis=1)
        return out
    floor = np.where(ruled_out, np.inf, cost)
    for p, line in enumerate(cost):
        difference = np.subtract(line, floor, out=np.full(cost.shape, -np.inf), where=~ruled_out)
        out[p] = difference.max(axis=1)
    return out


def _remember(net: Network, n: int, on: tuple[int, ...], best: Array) -> None:
    """Note that `n` takes strategy `best[positions of the nodes in on]` once those are known."""
    choices = net.strategies[n][best]
    at = tuple(net.strategies[m] for m in on)

    def lift(full: list[int]) -> None:
        full[n] = int(choices[tuple(int(np.searchsorted(s, full[m])) for s, m in zip(at, on))])

    net.lifts.append(lift)


__all__ = ["CELLS", "DENSE", "Impossible", "consistent", "eliminate", "merge", "settle", "simplify", "undominated"]
