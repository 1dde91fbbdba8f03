"""Exact shrinking of a network, each step with the way back.

Impossible pairs remove strategies (arc consistency), tables that are a mere sum go, nodes of degree 0, 1 and 2 are
minimised out (R0, R1, R2 of partitioned boolean quadratic programming, Scholz and Eckstein 2002), a node that another
one determines is merged into it, and dominated strategies go (Goldstein 1994). A node that still holds varying bytes is
never minimised out, unless what is cheapest holds the least as well.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from .dominance import stay
from .eliminate import eliminate, merge_into
from .network import Array, Network
from .table import Table

CELLS = 1 << 21  # most cells a degree-two elimination may look at
DENSE = 1 << 19  # most cells in all at which looking for dominated strategies is quick
PAIRS = 1 << 26  # most comparisons of a table's rows; larger ones are taken as unlike


def simplify(net: Network, cells: int = CELLS, dominance: bool = True) -> Network:
    """Shrink `net` in place until nothing more applies.

    Args:
        net: What to shrink; also returned.
        cells: Most cells that eliminating a node of degree two may look at.
        dominance: Whether to remove dominated strategies too, which costs the most.

    Raises:
        Impossible: No choice of finite cost exists.
    """
    queue = OrderedDict.fromkeys(sorted(net.unary, key=lambda n: (len(net.near[n]), n)))
    while queue:
        n, _ = queue.popitem(last=False)
        if n in net.unary:
            queue |= dict.fromkeys(_visit(net, n, cells, dominance))
    return net


def _visit(net: Network, n: int, cells: int, dominance: bool) -> list[int]:
    """Apply what applies to one node; return the nodes worth another look."""
    before, changed = len(net.unary[n]), [m for m in sorted(net.near[n]) if consistent(net, n, m)]
    while unsound := [m for m in sorted(net.near[n]) if not net.near[n][m].sound]:
        changed += [m for m in unsound if consistent(net, n, m)]
    near = sorted(net.near[n])
    settle(net, n)
    if eliminate(net, n, cells) or merge(net, n):
        return changed + near
    if dominance and undominated(net, n):
        changed.append(n)
    return changed + (near if len(net.unary[n]) < before else [])


def consistent(net: Network, n: int, m: int) -> bool:
    """Remove strategies of `n` and `m` without a partner in the other, and the table if it is a mere sum.

    Returns:
        Whether `m` is worth another look.
    """
    table = net.near[n][m]
    changed = not table.sound
    if changed:
        net.restrict(n, (table.possible.sum(axis=1) > 0)[table.row])
        net.restrict(m, (table.possible.sum(axis=0) > 0)[table.col])
        table = net.near[n][m]
    if table.parts is None or net.carried(n, m):
        return changed
    rows, cols = table.parts
    net.unary[n] = net.memo(_paid, net.unary[n], rows, table.row)
    net.unary[m] = net.memo(_paid, net.unary[m], cols, table.col)
    del net.near[n][m], net.near[m][n]
    return True


def _paid(unary: Array, more: Array, at: Array) -> Array:
    return unary + more[at]


def settle(net: Network, n: int) -> None:
    """Bytes on the tables of a node that no longer vary are no load any more."""
    for m, table in list(net.near[n].items()):
        if all(vary := table.varies):
            continue
        ids = net.carried(n, m)
        for i, held, still in zip(ids, table.held, vary):
            net.still[i] += 0.0 if still else held.flat[0]
        del net.cargo[min(n, m), max(n, m)]
        kept = tuple(held for held, some in zip(table.held, vary) if some)
        net.put(n, m, Table(table.row, table.col, table.cost, kept), tuple(i for i, some in zip(ids, vary) if some))


def merge(net: Network, n: int) -> bool:
    """Merge `n` into a neighbour whose strategy leaves it no choice; say whether that happened."""
    degree = len(net.near[n])
    for m in sorted(net.near[n]):
        table = net.near[n][m]
        if table.functional and not (table.T.functional and degree > len(net.near[m])):
            image = net.memo(_image, table)
            merge_into(net, n, m, image)
            return True
    return False


def _image(table: Table) -> Array:
    """The strategy of the first node that each strategy of the second one leaves."""
    first = np.zeros(len(table.cost), np.intp)
    first[table.row[::-1]] = np.arange(len(table.row))[::-1]
    return first[table.possible.argmax(axis=0)][table.col]


def undominated(net: Network, n: int) -> bool:
    """Remove strategies that another one of the node beats whatever its neighbours do; say whether any went."""
    if len(net.unary[n]) < 2:
        return False
    tables = [net.near[n][m] for m in sorted(net.near[n])]
    if any(len(t.cost) * t.cost.size > PAIRS for t in tables):
        return False
    kept = net.memo(stay, net.unary[n], *tables, *net.loads[n].values())
    net.restrict(n, kept)
    return not kept.all()
