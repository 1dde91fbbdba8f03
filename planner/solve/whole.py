"""A bound of a problem that is too large to be solved whole: some sweeps of message passing, memory at given prices."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Ready
from .free import Best
from .network import Array, Network
from .search import descend
from .simplify import consistent
from .trws import Messages

SWEEPS = 8
VISITS = 500_000  # of nodes in all sweeps
STALL = 2e-4  # share of itself by which the bound has to rise in a sweep


def bound_of(made: Ready, masks: Mapping[int, Array], price: Array, best: Best) -> float:
    """A bound on all choices; improves `best`, the best choice within the memory limit.

    Args:
        made: The problem.
        masks: What is left of its strategies, by node.
        price: Of a byte in each of its memory rows.
        best: What to beat.
    """
    messages = Messages(_left(made, masks, price))
    for _ in range(min(SWEEPS, max(2, VISITS // max(1, len(messages.order))))):
        before = messages.bound
        messages.sweep()
        if best.proven(messages.bound) or messages.bound - before <= STALL * abs(messages.bound):
            break
    best.offer(messages.net.lift(descend(messages.net, messages.round())))
    return messages.bound


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
