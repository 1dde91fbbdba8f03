"""Solve the partitioning integer program to proven optimality, or to a certified gap when work runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .branch import minimise_within
from .fitting import fit
from .free import NODES, PROVEN, Best, Effort, minimise
from .limited import look
from .memory import Memory
from .network import Impossible, Network, network
from .prices import CELLS, Labour, Pricing
from .problem import Problem, Solution, evaluate, peak
from .scoring import Scoring
from .simplify import simplify
from .trws import ROUNDING

Progress = Callable[[str, float, float], None]


def solve(
    problem: Problem, *, work: float = 1.0, tolerance: float = PROVEN, progress: Progress | None = None
) -> Solution:
    """The best choice of a problem, checked by `evaluate` and `peak`, which share no code with this.

    Args:
        problem: Costs may be infinite to exclude strategies; bytes are never negative. `starts` are tried first,
            and the answer is never worse than the best feasible one.
        work: Scales the branch-and-bound nodes and the largest program allowed. Never a
            time: the same input gives the same answer anywhere.
        tolerance: Relative gap at which to stop. The bound stays what was proven, and "optimal" means 1e-6 or less.
        progress: Called with the stage, the best seconds so far and the bound.

    Returns:
        The solution. If no choice of finite cost exists, "infeasible" with `seconds` and `excess` infinite; if every
        such choice needs too much memory, "infeasible" with a small `excess`, and few seconds beside that: the least of
        both where work suffices, which is not proven. Where work runs out before any choice that fits is found, this
        is the status too.
    """
    report = progress or (lambda stage, seconds, bound: None)
    effort = Effort(max(1, int(NODES * work)), max(tolerance, 2 * ROUNDING))
    scoring = Scoring(problem)
    memory = Memory(problem, scoring)
    fits, free = Best(scoring.within, effort.gap), Best(scoring.seconds, effort.gap)
    for start in problem.starts:
        fits.offer(tuple(start))
        free.offer(tuple(start))
    try:
        net = simplify(network(problem, memory), CELLS, dominance=False)
        bound = minimise(net.priced(np.zeros(memory.rows)), free, effort)
    except Impossible:
        return Solution(tuple([0] * len(problem.cost)), np.inf, np.inf, "infeasible", np.inf)
    report("memory ignored", free.seconds, bound)
    if not np.isfinite(free.seconds):
        return Solution(tuple([0] * len(problem.cost)), np.inf, np.inf, "infeasible", np.inf)
    fits.offer(free.choice)
    if fits.proven(bound):
        return _solution(problem, fits, bound)
    bound = max(bound, _within(problem, net, fits, free, effort, report))
    report("memory", fits.seconds, bound)
    if np.isfinite(fits.seconds):
        return _solution(problem, fits, bound)
    report("nothing fits: least excess", np.inf, bound)
    return _least_excess(problem, memory, free, effort)


def _within(problem: Problem, net: Network, best: Best, free: Best, effort: Effort, report: Progress) -> float:
    assert net.memory is not None
    try:
        pricing = Pricing(fit(net, problem.limit), net.memory, best, free.score, Labour(effort.labour), report=report)
        for choice in (free.choice, *problem.starts):
            pricing.add(tuple(choice))
        return minimise_within(pricing, effort)
    except Impossible:
        return best.seconds


def _least_excess(problem: Problem, memory: Memory, free: Best, effort: Effort) -> Solution:
    """When nothing fits: as few bytes over the limit as possible, then as few seconds."""
    scoring = memory.scoring

    def excess(choice: Sequence[int]) -> float:
        return max(0.0, scoring.peak(choice) - problem.limit) if np.isfinite(scoring.seconds(choice)) else np.inf

    def within(choice: Sequence[int]) -> float:
        return scoring.seconds(choice) if excess(choice) <= least.seconds else np.inf

    least = Best(excess, effort.gap)
    costless = _costless(problem)
    pricing = Pricing(simplify(network(costless, memory)), memory, least, free.score, Labour(effort.labour), soft=True)
    pricing.seconds = Scoring(costless).seconds
    pricing.add(free.choice)
    look(pricing, effort)
    best = Best(within, effort.gap)
    best.offer(least.choice)
    relaxed = replace(problem, limit=peak(problem, least.choice))
    net = simplify(network(relaxed, Memory(relaxed, scoring)), CELLS, dominance=False)
    bound = _within(relaxed, net, best, free, effort, lambda *_: None)
    if least.seconds == 0:
        return _solution(problem, best, bound)
    seconds, over = evaluate(problem, best.choice), peak(problem, best.choice) - problem.limit
    return Solution(best.choice, seconds, min(bound, seconds), "infeasible", over)


def _costless(problem: Problem) -> Problem:
    """The problem in which all that is possible is free."""
    edges = tuple(replace(e, cost=np.where(np.isfinite(e.cost), 0.0, np.inf)) for e in problem.edges)
    return replace(problem, cost=tuple(np.where(np.isfinite(c), 0.0, np.inf) for c in problem.cost), edges=edges)


def _solution(problem: Problem, best: Best, bound: float) -> Solution:
    seconds = evaluate(problem, best.choice)
    assert peak(problem, best.choice) <= problem.limit
    proven = seconds - bound <= PROVEN * abs(seconds)
    return Solution(best.choice, seconds, min(bound, seconds), "optimal" if proven else "feasible")
