"""When nothing fits: as few bytes over the limit as possible.

Where a byte costs more than anything else, the same in all rows, message passing finds a choice close to the
thriftiest. That nothing is thriftier is shown by limits that `fitting` proves impossible. Prices on the rows and a
program with soft rows close the gap that may be left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .fitting import fit, ranges
from .free import Best, Effort, minimise
from .limited import WINDOWS, look
from .memory import Memory
from .network import Impossible, Network
from .prices import CELLS, Labour, Pricing
from .search import descend
from .simplify import simplify
from .trws import ROUNDING, Messages

SHARE = 0.3  # of the labour for a proof
DEAR = 1e3  # times the seconds of a choice that all of memory costs
STEPS = 12  # of bisection
CLOSE = 5e-3  # of the excess, at which it stops


def least_excess(
    net: Network,
    memory: Memory,
    starts: Iterable[tuple[int, ...]],
    effort: Effort,
    windows: Sequence[tuple[float, float]] = WINDOWS,
) -> tuple[Best, float]:
    """The choice that is least over the limit, as far as work suffices, and the proven least of all.

    Args:
        net: With its loads; what costs least elsewhere need not be in it.
        memory: Its rows.
        starts: Choices of the whole problem to begin with.
        effort: When to stop.
        windows: As in `look`; none for what is seen at a glance.
    """
    scoring = memory.scoring

    def possible(choice: Sequence[int]) -> float:
        return 0.0 if np.isfinite(scoring.seconds(choice)) else np.inf

    def excess(choice: Sequence[int]) -> float:
        return max(0.0, scoring.peak(choice) - memory.limit) if np.isfinite(scoring.seconds(choice)) else np.inf

    least, known = Best(excess, effort.gap), [*starts, _thrifty(net, memory, effort, not windows)]
    for choice in known:
        least.offer(choice)
    bound = _impossible(net, memory, least.seconds, STEPS if windows else 0)
    if windows and not least.proven(bound):
        pricing = Pricing(net.costless(), memory, least, possible, Labour(SHARE * effort.labour), soft=True)
        bound = max(bound, _improved(pricing, known, effort, windows))
    return least, min(bound, least.seconds)


def _thrifty(net: Network, memory: Memory, effort: Effort, quickly: bool) -> tuple[int, ...]:
    """The choice of the fewest bytes in all rows together; quickly, one of few bytes."""
    most = sum(float(cost.max()) for cost in net.unary.values()) or 1.0
    price = np.full(memory.rows, DEAR * most / max(1.0, memory.limit) / max(1, memory.rows))
    if quickly:
        messages = Messages(simplify(net.priced(price), CELLS, dominance=False))
        messages.sweep()
        return messages.net.lift(descend(messages.net, messages.round()))
    best = Best(lambda choice: memory.scoring.seconds(choice) + float(price @ memory.used(choice)), effort.gap)
    minimise(net.priced(price), best, effort)
    return best.choice or net.lift(dict.fromkeys(net.unary, 0))


def _impossible(net: Network, memory: Memory, most: float, steps: int) -> float:
    """The most bytes over the limit that what is left surely needs."""
    low, high = max(0.0, float(net.totals(ranges(net)[0]).max(initial=0.0)) * (1 - ROUNDING) - memory.limit), most
    for step in range(steps):
        if not np.isfinite(high) or high - low <= CLOSE * high:
            break
        middle = max((low + high) / 2, most * (1 - CLOSE * 4**step))  # mostly nothing is much thriftier
        try:
            fit(net.copy(), memory.limit + middle, dominance=False)
            high = middle
        except Impossible:
            low = middle
    return low


def _improved(
    pricing: Pricing, known: Sequence[tuple[int, ...]], effort: Effort, windows: Sequence[tuple[float, float]]
) -> float:
    for choice in known:
        pricing.add(choice)
    try:
        return look(pricing, effort, windows=windows)
    except Impossible:
        return pricing.best.seconds
