"""Parts of a problem's strategies, each at its best: to compare with, and to start from, so found quickly, not proven.

All parts are presolved together, memory ignored: what a part rules out is a mark on the strategies, and presolve treats
marks as it treats bytes. Mostly what is best without memory fits, or is mended at a cost that its own bound shows to be
less than a hundredth. Only where that fails, prices and at last a program look at what is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .base import Ready, nothing
from .excess import least_excess
from .fitting import crowded, fit
from .free import NODES, Best, Effort, minimise
from .limited import look
from .marginals import cells
from .network import Array, Impossible, Network
from .prices import CELLS, Labour, Pricing
from .problem import Solution
from .simplify import DENSE, simplify
from .solve import misfit, solution

CLOSE = 0.01  # relative gap at which to stop
FAR, ROUGH = 2.0, 0.15  # times the best part so far; from there on a bound may leave it at that gap
ROUNDS = 12  # of prices
SMALLER = 0.25  # than for a plan: the programs that are tried
SHARE = 0.4  # of the labour for a proof of those
GENTLY = 1 / 64  # of the price of a byte at which all memory costs as much as the choice, to begin with
WINDOWS = ((1e-3, 1e-3), (CLOSE, 1e-3), (np.inf, CLOSE))

Masks = Mapping[int, Array]


def rivals(made: Ready, parts: Sequence[Masks], work: float = 1.0) -> Iterator[Solution]:
    """For each part a good choice, with the bound proven for it; of a program of equal layers, where they are alike.

    Args:
        made: The whole problem.
        parts: Masks of the strategies left, by node; of other nodes all are.
        work: As in `solve`.
    """
    if made.alike is not None:
        folded, small = made.alike
        for found in rivals(small, [folded.masks(masks) for masks in parts], work):
            yield replace(found, choice=folded.unfold(found.choice), short=0.0)
        return
    effort = Effort(max(1, int(SMALLER * NODES * work)), CLOSE)
    try:
        marked = _Marked(made, parts)
    except Impossible:
        yield from (nothing(made.problem) for _ in parts)
        return
    every: list[Solution] = []
    for i, masks in enumerate(parts):
        known = [s.choice for s in every if np.isfinite(s.seconds) and all(m[s.choice[n]] for n, m in masks.items())]
        least = min((s.seconds for s in every if s.status != "infeasible"), default=np.inf)
        try:
            every.append(_rival(made, masks, marked.part(i), known, effort, least))
        except Impossible:
            every.append(nothing(made.problem))
        yield every[-1]


class _Marked:
    """The network without memory in which the strategies that a part rules out hold a mark: a load of its own."""

    def __init__(self, made: Ready, parts: Sequence[Masks]) -> None:
        if made.net is None:
            raise Impossible
        net = made.net.priced(np.zeros(made.memory.rows))
        first, count = len(net.still), sum(map(len, parts))
        net.into, net.still = np.append(net.into, first + np.arange(count)), np.zeros(first + count)
        ids = iter(range(first, first + count))
        self.marks = [{next(ids): (n, mask) for n, mask in masks.items()} for masks in parts]
        for marks in self.marks:
            for i, (n, mask) in marks.items():
                net.hold(n, i, net.memo.one((~mask[net.strategies[n]]).astype(float)))
        simplify(net, CELLS, dominance=False)
        self.net = simplify(net, CELLS) if len(parts) > 1 and cells(net) <= DENSE else net

    def part(self, i: int) -> Network:
        """What is left for a part, without marks. Raises Impossible where nothing is."""
        net = self.net.copy()
        net.roots()
        mine = {int(net.into[mark]) for mark in self.marks[i]}
        if any(net.still[mark] for mark in mine):
            raise Impossible
        for n, loads in net.loads.items():
            barred = [held > 0 for mark, held in loads.items() if mark in mine]
            net.loads[n] = {}
            if barred:
                net.restrict(n, ~np.any(barred, axis=0))
        return net


@dataclass
class _Near(Best):
    """The best choice of a part, to be known well unless it is far from the best of all parts."""

    least: float = np.inf

    def proven(self, bound: float) -> bool:
        """Whether `bound` shows that nothing is noticeably better."""
        gap = ROUGH if bound > FAR * self.least else self.gap
        return self.seconds < np.inf and self.seconds - bound <= gap / 2 * abs(self.seconds)


def _rival(
    made: Ready, masks: Masks, free_of_memory: Network, known: Sequence[tuple[int, ...]], effort: Effort, least: float
) -> Solution:
    if crowded(made.left(masks), made.memory.limit):
        return _misfit(made, masks, known, effort)
    free, best = (_Near(score, effort.gap, least=least) for score in (made.scoring.seconds, made.scoring.within))
    for choice in known:
        best.offer(choice)
    bound = minimise(free_of_memory, free, effort)
    if not np.isfinite(free.seconds):
        return nothing(made.problem)
    best.offer(free.choice)
    if best.proven(bound):
        return solution(made.problem, best.choice, bound)
    for one in (made.light, made):
        if one is not None:
            bound = max(bound, _within(one.left(masks), one, best, [free.choice, *known], effort, bound))
        if np.isfinite(best.seconds):
            return solution(made.problem, best.choice, bound)
    return _misfit(made, masks, [free.choice, *known], effort)


def _misfit(made: Ready, masks: Masks, known: Sequence[tuple[int, ...]], effort: Effort) -> Solution:
    """Where nothing was found that fits: as few bytes over the limit as possible, unless that fits after all."""
    thriftiest, short = least_excess(made.left(masks), made.memory, known, effort, ())
    if not thriftiest.choice:
        return nothing(made.problem)
    if thriftiest.seconds > 0:
        return misfit(made.problem, thriftiest.choice, -np.inf, short)
    best = Best(made.scoring.within, effort.gap)
    best.offer(thriftiest.choice)
    bound = _within(made.left(masks), made, best, [thriftiest.choice], effort, -np.inf)
    return solution(made.problem, best.choice, bound)


def _within(
    net: Network, made: Ready, best: Best, known: Sequence[tuple[int, ...]], effort: Effort, bound: float
) -> float:
    """Improve `best` until `bound`, or a better one, is close; returns the bound."""
    pricing = Pricing(net, made.memory, best, made.scoring.seconds, Labour(SHARE * effort.labour))
    for choice in known:
        pricing.add(choice)
    pricing.mend(known[0], net.positions(known[0]), np.zeros(made.memory.rows), GENTLY)
    if best.proven(bound):
        return bound
    try:
        fit(net, made.memory.limit)
        return look(pricing, effort, ROUNDS, WINDOWS)
    except Impossible:
        return best.seconds
