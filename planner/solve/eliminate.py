"""Taking nodes out of a network: minimised out, or merged into a neighbour that determines them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .network import Array, Lift, Network
from .table import Table, joint, parts, through

CELLS = 1 << 21


def eliminate(net: Network, n: int, cells: int = CELLS) -> bool:
    """Minimise out a node of degree at most two that holds no varying bytes; say whether it happened."""
    near = sorted(net.near[n])
    if len(near) == 1 and _thrifty(net, n, near[0]):
        return True
    if len(near) > 2 or net.loads[n] or any(net.carried(n, m) for m in near):
        return False
    if not near:
        best = int(net.unary[n].argmin())
        net.constant += float(net.unary[n][best])
        net.lifts.append(_always(n, int(net.strategies[n][best])))
        net.drop(n)
        return True
    return len(near) == 2 and _fold_into_pair(net, n, near[0], near[1], cells)


def _thrifty(net: Network, n: int, m: int) -> bool:
    """Fold a leaf into its neighbour if what is cheapest beside each of its strategies also holds the least."""
    table = net.near[n][m]
    spec, total, best = net.memo(_cheapest_beside, net.unary[n], table)
    held = [*net.loads[n].values()]
    if held and not all(net.memo(_least, table, best, h) for h in held):
        return False
    if not all(net.memo(_thinnest, table, spec, h) for h in table.held):
        return False
    image = net.memo(_at, best, table.col)
    net.unary[m] = net.memo(_with, net.unary[m], total, table.col)
    _move(net, n, m, image, spec)
    net.lifts.append(_follow(n, m, net.strategies[m], net.strategies[n][image]))
    net.drop(n)
    return True


def _cheapest_beside(unary: Array, table: Table) -> tuple[Array, Array, Array]:
    """For each spec of the neighbour: the cheapest spec of the leaf, what it costs, and the strategy."""
    best, cheapest = cheapest_of(unary, table.row, len(table.cost))
    total = cheapest[:, None] + table.cost
    spec = total.argmin(axis=0)
    return spec, total.min(axis=0), best[spec]


def _least(table: Table, best: Array, held: Array) -> bool:
    """Whether the strategy that is best beside each spec of the neighbour holds the least of those possible."""
    beside = np.where(table.possible[table.row], held[:, None], np.inf)
    return bool((held[best] <= beside.min(axis=0)).all())


def _thinnest(table: Table, spec: Array, held: Array) -> bool:
    """Whether the pair of each spec of the neighbour with its best one holds the least of those possible."""
    beside = np.where(table.possible, held, np.inf)
    return bool((held[spec, np.arange(held.shape[1])] <= beside.min(axis=0)).all())


def _at(a: Array, index: Array) -> Array:
    return a[index]


def _with(unary: Array, total: Array, col: Array) -> Array:
    return unary + total[col]


def _move(net: Network, n: int, m: int, image: Array, spec: Array) -> None:
    """What `n` and its table with `m` hold, `m` holds from now on."""
    table, memo = net.near[n][m], net.memo
    for i, held in net.loads[n].items():
        net.hold(m, i, memo(_at, held, image))
    for i, held in zip(net.carried(n, m), table.held):
        net.hold(m, i, memo.one(held[spec[table.col], table.col]))


def merge_into(net: Network, n: int, m: int, image: Array) -> None:
    """Let strategy `image[t]` of `n` go with strategy `t` of `m`."""
    table, memo = net.near[n][m], net.memo
    net.unary[m] = memo(_merged, net.unary[m], net.unary[n], table, image)
    _move(net, n, m, image, table.possible.argmax(axis=0))
    net.lifts.append(_follow(n, m, net.strategies[m], net.strategies[n][image]))
    others = {w: (t, net.carried(n, w)) for w, t in net.near[n].items() if w != m}
    net.drop(n)
    for w, (t, ids) in others.items():
        net.join(m, w, memo(through, t, image), ids)


def _merged(unary: Array, gone: Array, table: Table, image: Array) -> Array:
    return unary + gone[image] + table.cost[table.row[image], table.col]


def _fold_into_pair(net: Network, n: int, u: int, v: int, cells: int) -> bool:
    a, b = net.near[n][u], net.near[n][v]
    if min(len(net.unary[n]), len(a.cost) * len(b.cost)) * a.cost.shape[1] * b.cost.shape[1] > cells:
        return False
    table, best = net.memo(_beside_both, net.unary[n], a, b)
    on = [(u, net.strategies[u], a.col), (v, net.strategies[v], b.col)]
    net.lifts.append(_between(n, on, net.strategies[n][best]))
    net.drop(n)
    net.join(u, v, table)
    return True


def _beside_both(unary: Array, a: Table, b: Table) -> tuple[Table, Array]:
    """The cost of the cheapest strategy beside each pair of specs of two neighbours, and which one that is."""
    index, (rows, cols) = joint(a.row, b.row)
    best, cheapest = cheapest_of(unary, index, len(rows))
    left, right = (cheapest[:, None] + a.cost[rows]).T, np.ascontiguousarray(b.cost[cols])
    totals = (part[:, :, None] + right for part in parts(left, right.size))
    found = [(total, total.argmin(axis=1)) for total in totals]
    cost = np.concatenate([np.take_along_axis(total, at[:, None], axis=1)[:, 0] for total, at in found])
    spec = np.concatenate([at for _, at in found])
    return Table(a.col, b.col, cost), best[spec]


def cheapest_of(cost: Array, group: Array, groups: int) -> tuple[Array, Array]:
    """The cheapest strategy of each group (lowest index first), and what it costs."""
    order = np.lexsort((np.arange(len(cost)), cost, group))
    first = order[np.searchsorted(group[order], np.arange(groups))]
    return first, cost[first]


def _always(n: int, strategy: int) -> Lift:
    def lift(full: list[int]) -> None:
        full[n] = strategy

    return lift


def _follow(n: int, m: int, known: Array, choices: Array) -> Lift:
    """`n` takes `choices[t]` where `m` takes `known[t]`."""
    places: list[int] = [0] * (int(known[-1]) + 1)
    for strategy, choice in zip(known.tolist(), choices.tolist()):
        places[strategy] = choice

    def lift(full: list[int]) -> None:
        full[n] = places[full[m]]

    return lift


def _between(n: int, on: Sequence[tuple[int, Array, Array]], choices: Array) -> Lift:
    """`n` takes `choices[p, q]` beside two nodes that show specs p and q; `on` holds them, what is left, its specs."""

    def lift(full: list[int]) -> None:
        at = tuple(int(spec[np.searchsorted(k, full[m])]) for m, k, spec in on)
        full[n] = int(choices[at])

    return lift
