"""Large neighbourhoods: hold most of the best choice, and solve for the rest of it as if that were all there is.

A neighbourhood is a ball in the graph, or what is held at one moment, or a ball that also grows along shared moments:
with little memory, nodes matter to each other that no edge joins. Within it prices, reduced costs and HiGHS do what
they do for the whole, and mostly show in a moment that there is nothing better. Neighbourhoods grow while they are
solved, and shrink when they are not. The numbers that pick them are pseudo-random and always the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from .fitting import fit
from .free import Effort
from .limited import look
from .network import Array, Impossible, Network
from .prices import CELLS, Labour, Pricing
from .simplify import simplify

START, STEP, SMALLEST = 60, 2, 12  # nodes of a neighbourhood
STALL = 40  # neighbourhoods without a better choice
ROUNDS = 8  # of prices in each
WINDOW = ((np.inf, 1e-4),)
SHARE = 2.0  # labour, of that for proofs


def wander(pricing: Pricing, bound: float, effort: Effort, enough: float = -np.inf) -> None:
    """Improve the best choice of a pricing until `bound` proves it, neighbourhoods yield nothing, or work runs out.

    Nor are choices looked for that beat one of `enough` seconds.
    """
    if not pricing.net.loaded():
        return
    around, best = Around(pricing.net), pricing.best
    labour, size, idle = Labour(SHARE * effort.labour), START, 0
    while idle < STALL and labour.left > 0 and best.seconds > enough and not best.proven(bound):
        before = best.seconds
        labour.left -= 2000.0 * len(pricing.net.unary)
        solved = _improve(pricing, around.pick(size), labour, effort)
        size = min(len(pricing.net.unary), size + STEP) if solved else max(SMALLEST, size - STEP)
        idle = 0 if best.seconds < before else idle + 1
        pricing.report("neighbourhoods", best.seconds, bound)


def _improve(pricing: Pricing, free: set[int], labour: Labour, effort: Effort) -> bool:
    """Look for better choices that differ from the best one in `free`; say whether there surely are no others."""
    best = pricing.best
    try:
        net = held_but(pricing.net, best.choice, free)
        fit(simplify(net, CELLS, dominance=False), pricing.memory.limit)
    except Impossible:
        return True
    if not net.unary:
        best.offer(net.lift({}))
        return True
    inside = replace(
        pricing,
        net=net,
        labour=labour,
        bound=-np.inf,
        price=np.zeros(0),
        sent={},
        columns={},
        report=lambda stage, seconds, bound: None,
    )
    inside.add(best.choice)
    return best.proven(look(inside, effort, ROUNDS, WINDOW))


def held_but(net: Network, choice: tuple[int, ...], free: set[int]) -> Network:
    """A copy in which all nodes but those in `free` take what they take in a choice, if they still can."""
    net = net.copy()
    for n in sorted(net.unary):
        at = net.strategies[n] == choice[n]
        if n not in free and at.any():
            net.restrict(n, at)
    return net


@dataclass
class Around:
    """Which nodes of a network lie around each other."""

    net: Network
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def __post_init__(self) -> None:
        self.nodes = sorted(self.net.unary)
        owner = np.full(len(self.net.still), -1)
        for n, loads in self.net.loads.items():
            owner[list(loads)] = n
        for (_, v), ids in self.net.cargo.items():
            owner[list(ids)] = v
        memory = self.net.memory
        assert memory is not None
        self.memory, self.owner = memory, owner[self.net.roots()]
        span = self.owner[memory.load]
        self._order = np.argsort(span, kind="stable")
        self._begin = np.searchsorted(span[self._order], np.arange(self.net.size + 1))

    def pick(self, size: int) -> set[int]:
        """About `size` nodes around a random one."""
        seed = self._one(self.nodes)
        way = int(self.random.integers(3))
        if way == 0 and len(mates := self._mates(seed)):
            return {seed, *self.random.permutation(mates)[: size - 1].tolist()}
        return self._ball(seed, size, beside=way == 1)

    def _ball(self, seed: int, size: int, beside: bool) -> set[int]:
        found = {seed: None}
        for n in _growing(found):
            more = self.random.permutation(sorted(self.net.near[n])).tolist()
            if beside and len(mates := self._mates(n)):
                more.append(self._one(mates))
            found |= dict.fromkeys(more[: size - len(found)])
            if len(found) >= size:
                break
        return set(found)

    def _mates(self, n: int) -> Array:
        """What is held at a random moment at which `n` holds something."""
        spans = self._order[self._begin[n] : self._begin[n + 1]]
        if not len(spans):
            return spans
        at = self._one(spans)
        row = int(self.random.integers(self.memory.start[at], self.memory.stop[at]))
        there = (self.memory.start <= row) & (row < self.memory.stop)
        nodes = np.unique(self.owner[self.memory.load[there]])
        return nodes[nodes >= 0]

    def _one(self, some: Array | list[int]) -> int:
        return int(some[int(self.random.integers(len(some)))])


def _growing(found: dict[int, None]) -> Iterator[int]:
    """The keys of a dict that grows meanwhile, in order."""
    for at in itertools.count():
        n = next(itertools.islice(found, at, None), None)
        if n is None:
            return
        yield n
