"""The best choice when memory is no object: shrink, bound, fix, and let HiGHS prove what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .marginals import decode, encode
from .network import Impossible, Network
from .ortools import run
from .search import descend
from .simplify import simplify
from .trws import ROUNDING, Messages

TOLERANCE = 1e-6  # relative gap that counts as proven
Score = Callable[[Sequence[int]], float]


@dataclass
class Best:
    """The best choice so far and its seconds (infinite while there is none)."""

    score: Score
    choice: tuple[int, ...] = ()
    seconds: float = np.inf

    def offer(self, choice: tuple[int, ...]) -> None:
        """Take a choice of the whole problem if it is better."""
        seconds = self.score(choice)
        if seconds < self.seconds:
            self.choice, self.seconds = choice, seconds

    def proven(self, bound: float) -> bool:
        """Whether `bound` shows that nothing is noticeably better."""
        return self.seconds < np.inf and self.seconds - bound <= TOLERANCE / 4 * abs(self.seconds)


def minimise(net: Network, best: Best, nodes: int) -> float:
    """Improve `best` to the optimum of a network without loads; returns the proven lower bound.

    Args:
        net: Used up.
        best: Its score is what `net` minimises.
        nodes: Most branch-and-bound nodes to look at.
    """
    try:
        for effort, cells, dominance in ((24, 1 << 16, False), (24, 1 << 20, True), (48, 1 << 22, True)):
            simplify(net, cells, dominance)
            if not net.unary:
                best.offer(net.lift({}))
                return min(best.seconds, lowered(net.constant))
            messages = converge(net, best, effort)
            if best.proven(messages.bound):
                return messages.bound
            messages.settle()
            fix(net, messages.floor, best.seconds)
        simplify(net)
        return exact(net, best, nodes)
    except Impossible:
        return best.seconds


def converge(net: Network, best: Best, sweeps: int) -> Messages:
    """Sweep until the gap is closed, the bound stalls or `sweeps` are done, offering choices on the way."""
    messages, last = Messages(net), -np.inf
    for i in range(sweeps):
        bound = messages.sweep()
        if i % 4 == 3 or i == 0:
            best.offer(net.lift(descend(net, messages.round())))
            if best.proven(bound) or bound - last <= 1e-3 * (best.seconds - bound):
                break
            last = bound
    return messages


def fix(net: Network, floor: dict[int, np.ndarray], value: float) -> None:
    """Remove the strategies that no choice of at most `value` takes, going by the lower bounds `floor`."""
    for n, least in floor.items():
        net.restrict(n, least <= value)


def exact(net: Network, best: Best, nodes: int) -> float:
    """Improve `best` to the optimum of what is left, by branch and bound; returns the bound."""
    if not net.unary:
        best.offer(net.lift({}))
        return min(best.seconds, lowered(net.constant))
    unit = abs(best.seconds) if 0 < abs(best.seconds) < np.inf else 1.0
    encoded = encode(net, unit)
    outcome = run(encoded.program, nodes)
    if outcome.values is not None:
        best.offer(net.lift(decode(net, encoded, outcome.values)))
    return min(best.seconds, lowered(outcome.bound * unit))


def lowered(value: float) -> float:
    """A bound rounded down by what float64 sums may be off."""
    return value - ROUNDING * abs(value)
