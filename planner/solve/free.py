"""The best choice when memory is no object: shrink, bound, look close above the bound, let HiGHS prove what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .marginals import decode, distinct, encode, variables
from .network import Impossible, Network
from .ortools import run
from .search import descend
from .search import value as value_of
from .simplify import DENSE, simplify
from .trws import ROUNDING, Messages

PROVEN = 1e-6  # relative gap that counts as proven
WIDE = 0.03  # gap at which better choices are worth more than better bounds
SWEEPS = 96  # most of one network
STALL = 2e-3  # share of itself by which the bound has to rise in four sweeps; an eighth in each window
WINDOWS = 4  # how often to look further above a bound; each time ten times as far
DEPTH = 3  # how often to look again inside what is left of a window
VARIABLES = 6000  # of the largest program tried at work 1: the roots of larger ones take many seconds
LABOUR = 1e9
NODES = 300  # branch-and-bound nodes of one program at work 1
Score = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class Effort:
    """When to stop.

    Attributes:
        nodes: Most branch-and-bound nodes of one program.
        gap: Relative gap at which to stop.
        backend: What solves integer programs: one of `ortools.BACKENDS`.
        size: Scales the largest program to try.
    """

    nodes: int = NODES
    gap: float = PROVEN
    backend: str = "highs"
    size: float = 1.0

    @property
    def variables(self) -> float:
        """Of the largest program to try."""
        return VARIABLES / NODES * self.nodes * self.size

    @property
    def labour(self) -> float:
        """Cells to sweep for a proof: some seconds at work 1."""
        return LABOUR / NODES * self.nodes


@dataclass
class Best:
    """The best choice so far and its seconds (infinite while there is none)."""

    score: Score
    gap: float = PROVEN
    choice: tuple[int, ...] = ()
    seconds: float = np.inf

    def offer(self, choice: tuple[int, ...]) -> None:
        """Take a choice of the whole problem if it is better."""
        seconds = self.score(choice)
        if seconds < self.seconds:
            self.choice, self.seconds = choice, seconds

    def proven(self, bound: float) -> bool:
        """Whether `bound` shows that nothing is noticeably better."""
        return self.seconds < np.inf and self.seconds - bound <= self.gap / 2 * abs(self.seconds)

    def wide(self, bound: float) -> bool:
        """Whether `bound` is so far that better choices are worth more than a better bound."""
        return self.seconds - bound > WIDE * abs(bound)


def minimise(
    net: Network, best: Best, effort: Effort, value: float = np.inf, known: Messages | None = None, depth: int = DEPTH
) -> float:
    """Improve `best` to the optimum of a network without loads; returns a bound on its choices.

    What the messages show to cost more than a value a little above their bound is left out, which usually leaves next
    to nothing; if that holds no choice, the value is a bound, and the next one is larger.

    Args:
        net: Used up.
        best: Its score is what `net` minimises.
        effort: When to stop.
        value: No matter what costs more: the bound may be this at most.
        known: Messages of a network that `net` is left of.
        depth: How often to look again inside what is left.
    """
    try:
        simplify(net, 1 << 16, dominance=False)
        if distinct(net) <= DENSE:
            simplify(net, 1 << 20)
        if not net.unary or variables(net) <= effort.variables / (4 if depth else 1):
            return exact(net, best, effort)
        start = Messages(net, known.carried(net) if known else None)
        messages, pace = converge(start, best, min(value, best.seconds), STALL / 8 ** (DEPTH - depth))
        return _windows(net, best, effort, value, depth, messages, pace)
    except Impossible:
        return min(value, best.seconds)


def _windows(
    net: Network, best: Best, effort: Effort, value: float, depth: int, messages: Messages, pace: float
) -> float:
    bound, share = messages.bound, max(1e-5, 8 * pace)
    for i in range(WINDOWS if depth else 0):
        most = min(value, best.seconds)
        if best.proven(bound) or bound >= most:
            break
        target = min(most, bound + share * 10**i * abs(bound)) if i + 1 < WINDOWS else most
        left = narrowed(net, messages, target)
        proven = min(target, minimise(left, best, effort, target, messages, depth - 1)) if left else target
        bound = max(bound, proven)
        if proven < min(target, best.seconds):
            break
    return bound


def narrowed(net: Network, messages: Messages, value: float) -> Network | None:
    """A copy without what no choice of at most `value` takes; None if nothing is left."""
    net = net.copy()
    try:
        prune(net, messages, value)
        fix(net, messages.floor, value)
    except Impossible:
        return None
    return net


def converge(messages: Messages, best: Best, most: float, stall: float) -> tuple[Messages, float]:
    """Sweep until the gap is closed, nothing of at most `most` is left or the bound stalls; offer choices on the way.

    Returns:
        The messages, and by what share of itself the bound last rose in four sweeps.
    """
    net, last, pace = messages.net, -np.inf, np.inf
    for i in range(SWEEPS):
        bound = messages.sweep()
        if i % 4 == 3 or i == 0:
            best.offer(net.lift(descend(net, messages.round())))
            pace = (bound - last) / abs(bound) if bound else np.inf
            if best.proven(bound) or bound >= most or pace <= stall:
                break
            last = bound
    messages.settle()
    return messages, pace


def prune(net: Network, messages: Messages, value: float) -> None:
    """Rule out the pairs of specs that no choice of at most `value` shows."""
    for (u, v), floor in messages.cells().items():
        table = net.near[u][v]
        dear = table.possible & (floor > value)
        if dear.any():
            net.put(u, v, replace(table, cost=np.where(dear, np.inf, table.cost)))


def fix(net: Network, floor: dict[int, np.ndarray], value: float) -> None:
    """Remove the strategies that no choice of at most `value` takes, going by the lower bounds `floor`."""
    for n, least in floor.items():
        net.restrict(n, least <= value)


def exact(net: Network, best: Best, effort: Effort) -> float:
    """Improve `best` to the optimum of what is left, by branch and bound; returns the bound."""
    if not net.unary:
        best.offer(net.lift({}))
        return lowered(net.constant)
    unit = abs(best.seconds) if 0 < abs(best.seconds) < np.inf else 1.0
    encoded = encode(net, unit)
    outcome = run(encoded.program, effort.nodes, effort.gap / 4, effort.backend)
    if outcome.bound == np.inf and effort.backend != "highs" and refuted(net, best):
        outcome = run(encoded.program, effort.nodes, effort.gap / 4)
    if outcome.values is not None:
        best.offer(net.lift(decode(net, encoded, outcome.values)))
    return lowered(outcome.bound * unit)


def refuted(net: Network, best: Best) -> bool:
    """Whether the best choice is still there, so that a back end that calls the network infeasible is wrong."""
    at_hand = best.seconds < np.inf and net.holds(best.choice)
    return at_hand and value_of(net, net.positions(best.choice)) < np.inf


def lowered(value: float) -> float:
    """A bound rounded down by what float64 sums may be off; infinite, where there is no choice, it stays."""
    return value - ROUNDING * abs(value) if np.isfinite(value) else value
