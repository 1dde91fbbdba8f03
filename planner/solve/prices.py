"""Prices on memory: whatever λ ≥ 0 bytes cost in each row, min_x [seconds + λ·bytes] − λ·limit is a lower bound.

The prices come from a small linear program over the choices found so far (Dantzig and Wolfe 1960): mix them so that
the mix fits. Its duals are the next prices, pulled towards the best ones so far (Wentges 1997). Each priced problem
has no memory rows, so message passing bounds it, tells which strategies cannot pay, and finds the next choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .free import Best, Score, fix
from .marginals import cells
from .memory import Memory
from .network import Impossible, Network, dearest
from .ortools import Program, run
from .search import descend
from .simplify import simplify
from .trws import Messages

Array = np.ndarray
CELLS = 1 << 16  # most cells that eliminating a node between prices may look at
SWEEPS = 4  # most at one price: the next one starts from these
STALL = 2e-4  # share of itself by which the bound has to rise in a sweep
MENDS = 4  # how often to raise prices on what does not fit
GENTLY = 1 / 16  # of the price of a byte at which all memory costs as much as the choice, to begin with
SQUEEZES, RISE = 12, 0.02  # how often to ask for more, and for how much more


@dataclass
class Labour:
    """What may still be spent, in cells swept; the same on every machine. Cases share one."""

    left: float


def size(net: Network) -> float:
    """What one sweep costs."""
    return cells(net) + 2000.0 * (len(net.unary) + sum(len(near) for near in net.near.values()))


@dataclass
class Pricing:
    """The search for prices on the rows of a network.

    Attributes:
        net: With loads; shrinks as strategies prove too dear.
        memory: Its rows.
        best: The best choice within the limit; with `soft`, the one with the fewest bytes over it.
        seconds: The objective without memory, of choices of the whole problem.
        labour: What may still be spent.
        soft: Whether each byte over the limit costs 1, instead of being forbidden.
        report: Called with the stage, the best so far and the bound.
        bound: The best bound so far.
        price: The prices behind it, by row.
        sent: The messages behind it.
        columns: Seconds of the choices found, and their bytes by row.
    """

    net: Network
    memory: Memory
    best: Best
    seconds: Score
    labour: Labour
    soft: bool = False
    report: Callable[[str, float, float], None] = lambda stage, seconds, bound: None
    bound: float = -np.inf
    price: Array = field(default_factory=lambda: np.zeros(0))
    sent: dict[tuple[int, int], Array] = field(default_factory=dict)
    columns: dict[tuple[int, ...], tuple[float, Array]] = field(default_factory=dict)

    def add(self, choice: tuple[int, ...]) -> None:
        """Offer a choice of the whole problem, and let the prices know it."""
        seconds = self.seconds(choice)
        if np.isfinite(seconds) and choice not in self.columns:
            self.columns[choice] = (seconds, self.memory.used(choice))
            self.best.offer(choice)

    def ascend(self, rounds: int) -> None:
        """Improve bound and prices.

        Raises:
            Impossible: Nothing is better than the best choice, or nothing fits at all.
        """
        ceiling = np.inf if self.soft else dearest(self.net)
        sent = None
        if not len(self.price):
            self.price = np.zeros(self.memory.rows)
        target, stalled, step = self.mix()[0] if self.soft and self.columns else self.price, 0, 0.4
        for _ in range(rounds):
            messages = Messages(self.priced(target), sent)
            before, known = self.bound, len(self.columns)
            self.take(messages, target)
            if self.bound > ceiling:
                raise Impossible
            self.shrink(messages)
            sent = messages.sent
            self.report("prices", self.best.seconds, self.bound)
            if self.best.proven(self.bound) or self.labour.left < 0:
                return
            if not self.columns:
                continue
            duals, value, _ = self.mix()
            step = min(1.0, 1.5 * step) if self.bound - before > 1e-4 * abs(value) else step / 1.5
            stalled = 0 if self.bound - before > 1e-4 * abs(value) or len(self.columns) > known else stalled + 1
            if stalled > 3 or value - self.bound <= 1e-5 * abs(value):
                return
            target = self.price + step * (duals - self.price)

    def squeeze(self) -> None:
        """Look for choices that fit at higher prices than the best: higher where they break rows, then in between."""
        sent, low, high = self.sent, self.price, None
        for _ in range(SQUEEZES):
            if self.best.proven(self.bound) or self.labour.left < 0:
                return
            price = low if high is None else (low + high) / 2
            messages = Messages(self.priced(price), sent)
            over = self.memory.used(self.take(messages, price, np.inf)) > self.memory.limit
            sent = messages.sent
            if not over.any():
                low, high = low * (1 - RISE), price
            else:
                low = price * (1 + RISE) + over * (RISE * price.sum() / over.sum()) if high is None else price

    def take(self, messages: Messages, price: Array, stall: float = STALL) -> tuple[int, ...]:
        """Sweep until the bound stalls, keep it if it is the best one, and add the choices that come up; the first."""
        count = 0
        while count < SWEEPS:
            before, count = messages.bound, count + 1
            messages.sweep()
            if count > 2 and messages.bound - before <= stall * abs(messages.bound):
                break
        self.labour.left -= (count + 5) * size(self.net)
        messages.settle()
        choice = descend(messages.net, messages.round())
        whole = messages.net.lift(choice)
        self.add(whole)
        self.mend(whole, choice, price)
        if messages.bound > self.bound:
            self.bound, self.price, self.sent = messages.bound, price, messages.sent
        return whole

    def mend(self, whole: tuple[int, ...], choice: dict[int, int], price: Array, share: float = GENTLY) -> None:
        """Raise the prices of the rows that a choice breaks until descent leads to one that fits.

        A `share` of a byte's fair price is where that begins; what is gentle at first ends with the same rise.
        """
        if self.soft or not np.isfinite(self.seconds(whole)):
            return
        for i in range(MENDS - int(np.log2(2 * share))):
            over = self.memory.used(whole) > self.memory.limit
            if not over.any():
                return
            price = price + np.where(over, min(0.5, share * 2.0**i) * self._step(price, whole), 0.0)
            choice = descend(self.net, choice, self.net.weights(price))
            whole = self.net.lift(choice)
            self.add(whole)
            self.labour.left -= size(self.net) / 4

    def _step(self, price: Array, whole: tuple[int, ...]) -> float:
        """A price of a byte that nobody pays gladly."""
        return max(float(price.max()), abs(self.seconds(whole)) / self.memory.limit)

    def shrink(self, messages: Messages) -> None:
        """Remove what cannot be in a better choice, from the network and from the messages."""
        before = dict(self.net.strategies)
        fix(self.net, messages.floor, self.best.seconds)
        if all(len(before[n]) == len(left) for n, left in self.net.strategies.items()):
            return
        simplify(self.net, CELLS, dominance=False)
        kept = {n: np.isin(before[n], left) for n, left in self.net.strategies.items()}
        messages.sent, self.sent = self._still(messages.sent, kept), self._still(self.sent, kept)
        messages.floor = {n: messages.floor[n][kept[n]] for n in kept}

    def _still(self, sent: dict[tuple[int, int], Array], kept: dict[int, Array]) -> dict[tuple[int, int], Array]:
        pairs = ((m, n) for n in self.net.near for m in self.net.near[n] if (m, n) in sent)
        return {(m, n): sent[m, n][kept[n]] if len(sent[m, n]) == len(kept[n]) else sent[m, n] for m, n in pairs}

    def priced(self, price: Array) -> Network:
        """The network without rows that charges for bytes instead."""
        return self.net.priced(price)

    def mix(self) -> tuple[Array, float, Array]:
        """Prices at which no mix of the known choices that fits is cheaper, its seconds, and the share of each."""
        seconds = np.array([s for s, _ in self.columns.values()])
        over = np.array([rows for _, rows in self.columns.values()]) - self.memory.limit
        tight = np.flatnonzero((over > 0).any(axis=0))
        tight = tight[np.sort(np.unique(over[:, tight], axis=1, return_index=True)[1])]  # of equal rows the first
        unit, scale = self._units(seconds, over)
        program = _mixture(seconds / unit, over[:, tight].T / scale, scale / unit if self.soft else 1e3)
        outcome = run(program)
        duals = np.zeros(over.shape[1])
        duals[tight] = np.maximum(-outcome.duals[1:], 0.0) * unit / scale
        shares = np.zeros(len(seconds)) if outcome.values is None else outcome.values[:-1]
        return duals, outcome.bound * unit, shares

    def _units(self, seconds: Array, over: Array) -> tuple[float, float]:
        scale = float(np.abs(over).max(initial=0.0)) or 1.0
        return (scale if self.soft else float(seconds.max()) or 1.0), scale


def _mixture(cost: Array, over: Array, penalty: float) -> Program:
    """Minimise cost over convex weights of the columns of `over`, plus `penalty` for what the mix is above zero."""
    rows, columns = over.shape
    matrix = np.zeros((rows + 1, columns + 1))
    matrix[0, :-1], matrix[1:, :-1], matrix[1:, -1] = 1, over, -1
    at = np.nonzero(matrix)
    return Program(
        cost=np.append(cost, penalty),
        upper=np.append(np.ones(columns), np.inf),
        integer=np.zeros(columns + 1, bool),
        rows=at[0],
        cols=at[1],
        values=matrix[at],
        low=np.append(1.0, np.full(rows, -np.inf)),
        high=np.append(1.0, np.zeros(rows)),
    )
