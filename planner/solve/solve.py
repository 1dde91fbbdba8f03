"""Solve the partitioning integer program to proven optimality, or to a certified gap when work runs out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from .base import Ready, nothing, ready
from .branch import cases, minimise_within
from .excess import least_excess
from .fitting import fit
from .free import NODES, PROVEN, Best, Effort, minimise
from .network import Array, Impossible, Network
from .prices import Labour, Pricing, size
from .problem import Problem, Solution, evaluate, peak
from .search import descend
from .trws import ROUNDING, Messages
from .whole import bound_of

Progress = Callable[[str, float, float], None]
ALIKE = 1e-5  # gap at which choices with equal parts alike are good enough to start from
NONE = np.zeros(0)
MUCH = 2e7  # cells: to sweep a larger network takes long, and where memory is short that is in vain
GLANCES = 4  # sweeps of it, to see whether that is so
HASTE = 8  # share of the work for them where the whole is not solved, and its own bound leaves a gap anyhow


def solve(
    problem: Problem | Ready,
    *,
    within: Mapping[int, Array] | None = None,
    starts: Sequence[Sequence[int]] = (),
    work: float = 1.0,
    tolerance: float = PROVEN,
    backend: str = "highs",
    progress: Progress | None = None,
    free: bool = True,
) -> Solution:
    """The best choice of a problem, checked by `evaluate` and `peak`, which share no code with this.

    Args:
        problem: Costs may be infinite to exclude strategies; bytes are never negative.
        within: Masks of the strategies that may be taken, by node; of other nodes all may.
        starts: Choices that are tried first; the answer is never worse than the best feasible one.
        work: Scales the branch-and-bound nodes and the largest program allowed. Never a
            time: the same input gives the same answer anywhere.
        tolerance: Relative gap at which to stop. The bound stays what was proven, and "optimal" means 1e-6 or less.
        backend: What solves integer programs, "highs" or "cp-sat". Both are checked the same way.
        progress: Called with the stage, the best seconds so far and the bound.
        free: Whether equal parts of a problem that repeats itself may differ; if not, nothing is proven of it.

    Returns:
        The solution. If no choice of finite cost exists, "infeasible" with `seconds` and `excess` infinite; if every
        such choice needs too much memory, "infeasible" with a small `excess`, and few seconds beside that: the least of
        both where work suffices, and `short` is what is proven. Where work runs out before any choice that fits is
        found, this is the status too.
    """
    report = progress or _silent
    effort = Effort(max(1, int(NODES * work)), max(tolerance, 2 * ROUNDING), backend)
    made, masks = problem if isinstance(problem, Ready) else ready(problem), within or {}
    known = [tuple(start) for start in starts if all(mask[start[n]] for n, mask in masks.items())]
    if made.alike is None:
        return _solved(made, masks, known, effort, report)
    return _released(made, masks, known, effort, report, free)


def _released(
    made: Ready,
    masks: Mapping[int, Array],
    known: Sequence[tuple[int, ...]],
    effort: Effort,
    report: Progress,
    free: bool,
) -> Solution:
    """Solve with equal parts alike, and go on from there with all of them free; too large a whole is only bounded."""
    assert made.alike is not None
    folded, small = made.alike
    rough = replace(effort, gap=max(effort.gap, ALIKE), nodes=max(1, effort.nodes // (HASTE if made.large else 1)))
    tied = _solved(small, folded.masks(masks), [], rough, _silent)
    report("equal layers alike", tied.seconds, 0.0)
    if np.isfinite(tied.seconds):
        known = [folded.unfold(tied.choice), *known]
    alike = tied.seconds if tied.status != "infeasible" else np.inf
    if not free and np.isfinite(alike):
        best = Best(made.scoring.within, effort.gap)
        for start in known:
            best.offer(start)
        return replace(_solution(made.problem, best, 0.0), alike=alike)
    if not made.large or not np.isfinite(alike):
        return replace(_solved(made, masks, known, effort, report), alike=alike)
    best = Best(made.scoring.within, effort.gap)
    for start in known:
        best.offer(start)
    same = len(tied.price) == made.memory.rows
    bound = bound_of(made, masks, np.array(tied.price) if same else np.zeros(made.memory.rows), best)
    report("layers free", best.seconds, bound)
    return replace(_solution(made.problem, best, bound), alike=alike)


def _silent(stage: str, seconds: float, bound: float) -> None:
    """No progress to report: what is proven of a part is not proven of the whole."""


def _solved(
    made: Ready, masks: Mapping[int, Array], starts: Sequence[tuple[int, ...]], effort: Effort, report: Progress
) -> Solution:
    """The solution of a problem as it is."""
    fits, free = Best(made.scoring.within, effort.gap), Best(made.scoring.seconds, effort.gap)
    price = np.zeros(made.memory.rows)
    for start in starts:
        fits.offer(start)
        free.offer(start)
    try:
        net = made.left(masks)
        bound = _ignoring_memory(net.priced(price), free, made, effort)
    except Impossible:
        return nothing(made.problem)
    report("memory ignored", free.seconds, bound)
    if not np.isfinite(free.seconds):
        return nothing(made.problem)
    fits.offer(free.choice)
    if fits.proven(bound):
        return _solution(made.problem, fits, bound, price)
    known = [free.choice, *starts]
    bound, price = _within(made, masks, fits, known, effort, bound, report)
    if np.isfinite(fits.seconds):
        return _solution(made.problem, fits, bound, price)
    report("nothing fits: least excess", np.inf, bound)
    return _misfit(made, net, masks, known, effort)


def _ignoring_memory(net: Network, free: Best, made: Ready, effort: Effort) -> float:
    """Improve the best choice when memory is no object; returns the bound.

    A large network is only glanced at, where what that finds does not fit.
    """
    if size(net) > MUCH:
        messages = Messages(net)
        for _ in range(GLANCES):
            messages.sweep()
        free.offer(net.lift(descend(net, messages.round())))
        if np.isfinite(free.seconds) and not np.isfinite(made.scoring.within(free.choice)):
            return messages.bound
    return minimise(net, free, effort)


def _within(
    made: Ready,
    masks: Mapping[int, Array],
    best: Best,
    known: Sequence[tuple[int, ...]],
    effort: Effort,
    bound: float,
    report: Progress,
) -> tuple[float, Array]:
    """Improve the best choice that fits: what is large first, then all; returns the bound and the prices behind it."""
    price, tried = np.zeros(made.memory.rows), dict.fromkeys(known)
    for name, one, search in (("large loads", made.light, cases), ("memory", made, minimise_within)):
        if one is None or best.proven(bound):
            continue
        try:
            net = fit(one.left(masks), one.memory.limit)
            labour = Labour(effort.labour)
            pricing = Pricing(net, one.memory, best, made.scoring.seconds, labour, report=report, price=price)
            for choice in tried:
                pricing.add(choice)
            bound = max(bound, search(pricing, effort, bound))
            price, tried = pricing.price, tried | dict.fromkeys(pricing.columns)
        except Impossible:
            bound = best.seconds
        report(name, best.seconds, bound)
    return bound, price


def _misfit(
    made: Ready, net: Network, masks: Mapping[int, Array], known: Sequence[tuple[int, ...]], effort: Effort
) -> Solution:
    """When nothing fits: as few bytes over the limit as possible, then as few seconds."""
    least, short = least_excess(net, made.memory, known, effort)
    relaxed = ready(replace(made.problem, limit=peak(made.problem, least.choice)))
    best = Best(relaxed.scoring.within, effort.gap)
    best.offer(least.choice)
    bound, _ = _within(relaxed, masks, best, [*known, least.choice], effort, -np.inf, _silent)
    if least.seconds == 0:
        return _solution(made.problem, best, bound)
    return misfit(made.problem, best.choice, min(bound, best.seconds), short)


def misfit(problem: Problem, choice: tuple[int, ...], bound: float, short: float) -> Solution:
    """A choice over the limit, as a solution."""
    seconds, over = evaluate(problem, choice), peak(problem, choice) - problem.limit
    return Solution(choice, seconds, min(bound, seconds), "infeasible", over, min(short, over))


def _solution(problem: Problem, best: Best, bound: float, price: Array = NONE) -> Solution:
    return replace(solution(problem, best.choice, bound), price=tuple(price.tolist()))


def solution(problem: Problem, choice: tuple[int, ...], bound: float) -> Solution:
    """A choice that fits, as a solution; checked here."""
    seconds = evaluate(problem, choice)
    assert np.isfinite(seconds) and peak(problem, choice) <= problem.limit
    proven = seconds - bound <= PROVEN * abs(seconds)
    return Solution(choice, seconds, min(bound, seconds), "optimal" if proven else "feasible")
