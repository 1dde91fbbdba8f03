"""A problem made ready: what several searches on the same numbers share is made once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .alike import Folded, fold
from .memory import Memory
from .network import Array, Impossible, Network, network
from .prices import CELLS
from .problem import Problem, Solution
from .scoring import Scoring
from .simplify import simplify

SMALL = 1200  # nodes of a problem that is solved as it is
LARGE = 80_000  # nodes of one that is not solved whole: the contest's largest files are half of that
LIGHT = 0.1  # share of the limit that small loads may vary by in all, for a first look at what is large


@dataclass(frozen=True, eq=False)
class Ready:
    """A problem with its tables compacted and its memory rows found.

    Attributes:
        net: The whole problem as a network; None if no choice of finite cost is left. Never written to.
    """

    problem: Problem
    scoring: Scoring
    memory: Memory
    net: Network | None

    @cached_property
    def alike(self) -> tuple[Folded, Ready] | None:
        """The problem with equal parts tied; None if it is small, or hardly repeats itself."""
        folded = fold(self.problem) if len(self.problem.cost) > SMALL else None
        return folded and (folded, ready(folded.problem))

    @cached_property
    def light(self) -> Ready | None:
        """The problem with small loads at their least: what is proven of it is proven of this one. None if all vary."""
        memory = self.memory.lighter(LIGHT)
        if memory is None or self.net is None:
            return None
        return Ready(self.problem, self.scoring, memory, network(self.problem, memory, self.net.memo))

    @property
    def large(self) -> bool:
        """Whether the whole is too much to solve, so that equal parts stay alike."""
        return len(self.problem.cost) > LARGE

    def left(self, masks: Mapping[int, Array]) -> Network:
        """A network of its own with only the strategies in `masks`, by node; shrunk.

        Raises:
            Impossible: No choice of finite cost is left.
        """
        if self.net is None:
            raise Impossible
        net = self.net.copy()
        for n, mask in masks.items():
            net.restrict(n, mask[net.strategies[n]])
        return simplify(net, CELLS, dominance=False)


def ready(problem: Problem) -> Ready:
    """Make a problem ready."""
    scoring = Scoring(problem)
    memory = Memory(problem, scoring)
    try:
        return Ready(problem, scoring, memory, network(problem, memory))
    except Impossible:
        return Ready(problem, scoring, memory, None)


def nothing(problem: Problem) -> Solution:
    """What there is to say where no choice of finite cost exists."""
    return Solution(tuple([0] * len(problem.cost)), np.inf, np.inf, "infeasible", np.inf, np.inf)
