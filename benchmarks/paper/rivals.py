"""Every feed-forward layout with every split of attention, each at its best in the planner's own program.

The planner is told none of these names: they only forbid strategies that go by another one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from benchmarks.paper.words import ATTENTION, FFN, attention, attention_split, feed_forward, ffn_words
from planner.formulate import Formulation
from planner.solve import Problem, solve

Array = np.ndarray
CLOSE = 0.005


@dataclass(frozen=True)
class Rival:
    """A layout by name; `seconds` is infinite where it does not fit."""

    ffn: str
    attention: str
    seconds: float


def rivals(formulation: Formulation, batch: int) -> Iterator[Rival]:
    """All layouts, each solved to within half a percent."""
    for ffn, split in product(FFN, ATTENTION):
        solution = solve(only(formulation, ffn, split, batch), tolerance=CLOSE)
        yield Rival(ffn, split, solution.seconds if solution.status != "infeasible" else np.inf)


def only(formulation: Formulation, ffn: str, split: str, batch: int) -> Problem:
    """The program without the strategies of other layouts."""
    cost = list(formulation.problem.cost)
    for w in feed_forward(formulation):
        cost[w.node] = np.where(ffn_words(formulation.strategies[w.node], w) == ffn, cost[w.node], np.inf)
    for n in attention(formulation):
        devices = attention_split(formulation, n, batch)
        most = devices.argmax(1) == ATTENTION.index(split)
        cost[n] = np.where(most & (devices.max(1) > 1), cost[n], np.inf)
    return replace(formulation.problem, cost=tuple(cost))


def best(found: Sequence[Rival]) -> Rival:
    """The fastest."""
    return min(found, key=lambda rival: rival.seconds)
