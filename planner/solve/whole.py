"""A bound of a problem that is too large to be solved whole: some sweeps of message passing, memory at given prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .base import Ready
from .free import Best
from .network import Array, Network
from .prices import CELLS
from .search import descend
from .simplify import consistent, simplify
from .trws import Messages

SWEEPS = 8
VISITS = 500_000  # of nodes in all sweeps
STALL = 2e-4  # share of itself by which the bound has to rise in a sweep
MOST, EVEN = 48, 1e-6  # sweeps, and such a share, where it is the floors that count


def bound_of(made: Ready, masks: Mapping[int, Array], price: Array, best: Best) -> float:
    """A bound on all choices; improves `best`, the best choice within the memory limit.

    Args:
        made: The problem.
        masks: What is left of its strategies, by node.
        price: Of a byte in each of its memory rows.
        best: What to beat.
    """
    messages = Messages(simplify(_left(made, masks, price), CELLS, dominance=False))
    for _ in range(min(SWEEPS, max(2, VISITS // max(1, len(messages.order))))):
        before = messages.bound
        messages.sweep()
        if best.proven(messages.bound) or messages.bound - before <= STALL * abs(messages.bound):
            break
    best.offer(messages.net.lift(descend(messages.net, messages.round())))
    return messages.bound


def floors(made: Ready, masks: Mapping[int, Array], price: Sequence[float] = ()) -> list[Array]:
    """For each node, a bound on all choices in which it takes each of its strategies; those within the memory limit.

    Args:
        made: The problem.
        masks: What is left of its strategies, by node; what is not has an infinite bound. Of nodes that are alike,
            what is left of any is left of all, and their bounds are of choices that keep them alike.
        price: Of a byte in each memory row; by default memory is no object.
    """
    if made.alike is not None:
        folded, small = made.alike
        found = floors(small, folded.either(masks))
        return [found[n] for n in folded.of.tolist()]
    net = _left(made, masks, np.array(price) if len(price) == made.memory.rows else np.zeros(made.memory.rows))
    beside = [(n, m) for n, cost in net.unary.items() if len(cost) == 1 for m in net.near[n]]
    for u, v in beside:
        if v in net.near[u]:
            consistent(net, u, v)
    messages = Messages(net)
    for _ in range(MOST):
        before = messages.bound
        if messages.sweep() - before <= EVEN * abs(messages.bound):
            break
    messages.settle()
    out = [np.full(len(cost), np.inf) for cost in made.problem.cost]
    for n, floor in messages.floor.items():
        out[n][net.strategies[n]] = floor
    return out


def _left(made: Ready, masks: Mapping[int, Array], price: Array) -> Network:
    """The network as it is, with memory at a price, and without strategies that have no partner."""
    assert made.net is not None
    net = made.net.priced(price)
    for n, mask in masks.items():
        net.restrict(n, mask[net.strategies[n]])
    queue = dict.fromkeys(net.near)
    while queue:
        n, _ = queue.popitem()
        unsound = [m for m in net.near[n] if not net.near[n][m].sound]
        for m in unsound:
            consistent(net, n, m)
        queue |= dict.fromkeys(w for m in (n, *unsound) for w in net.near[m]) if unsound else {}
    return net
