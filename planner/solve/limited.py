"""Branch and bound under the memory limit, with rows added where a solution breaks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .fitting import fit
from .free import Best, Effort, fix, lowered, minimise, prune, refuted
from .marginals import Encoded, decode, encode, variables, with_rows
from .memory import Memory
from .network import Impossible, Network
from .ortools import run
from .prices import CELLS, Pricing
from .simplify import simplify
from .trws import Messages

Array = np.ndarray
Line = tuple[Array, Array, float]
ROUNDS = 200  # of adding rows; each adds at least one that was broken
EXACT = 1e-9
BOLD = 5  # how many times larger a program may be while no choice that fits is known
PROGRAM = 20000  # sweeping this many cells costs as much as a variable in a program
# How far over the bound to look, as a share of it, and to what relative gap.
WINDOWS = (*((1e-3 * 2**i, 1e-3) for i in range(6)), (np.inf, 0.0))


def look(pricing: Pricing, effort: Effort, rounds: int = 40, windows: Sequence[tuple[float, float]] = WINDOWS) -> float:
    """Improve the best choice of a pricing; returns the bound.

    Strategies that the bound shows to cost more than some value are left out, and HiGHS solves the rest. A solution of
    at most that value is optimal; otherwise the value is a new bound, and the next one is larger.
    """
    best = pricing.best
    try:
        if not pricing.net.loaded() and not pricing.soft:
            return minimise(pricing.net, best, effort, best.seconds)
        pricing.ascend(rounds)
        if best.proven(pricing.bound):
            return pricing.bound
        messages = Messages(pricing.priced(pricing.price), pricing.sent)
        pricing.take(messages, pricing.price, 0.0)
    except Impossible:
        return best.seconds
    bound = pricing.bound
    for share, gap in windows:
        value = min(best.seconds, bound + share * abs(bound))
        gap = max(EXACT, effort.gap / 10) if value == best.seconds else max(gap, effort.gap / 10)
        proven = _window(pricing, messages, value, effort, gap)
        bound = max(bound, -np.inf if proven is None else proven)
        pricing.report(f"window {share:g}", best.seconds, bound)
        if best.proven(bound) or proven is None:
            break
    return min(bound, best.seconds)


def _window(pricing: Pricing, messages: Messages, value: float, effort: Effort, gap: float) -> float | None:
    """Look for choices of at most `value`; returns the bound: `value` if there is none, None if too much work."""
    net, best = pricing.net.copy(), pricing.best
    try:
        prune(net, messages, value)
        fix(net, messages.floor, value)
        simplify(net) if pricing.soft else fit(simplify(net, CELLS, dominance=False), pricing.memory.limit)
        if variables(net) > effort.variables * (1 if best.seconds < np.inf else BOLD):
            return None
        pricing.labour.left -= PROGRAM * variables(net)
        if net.unary:
            return min(
                value,
                exact_within(net, pricing.memory, best, pricing.price > 0, replace(effort, gap=gap), pricing.soft),
            )
        best.offer(net.lift({}))
    except Impossible:
        pass
    return value


def exact_within(net: Network, memory: Memory, best: Best, active: Array, effort: Effort, soft: bool = False) -> float:
    """Improve `best` to the optimum within the limit of what is left; returns the bound.

    Args:
        net: Shrunk with its loads; at least one node is left.
        memory: The rows of `net.member`.
        best: Its score is infinite over the limit.
        active: Mask of the rows to start with.
        effort: When to stop, in each round.
        soft: Minimise seconds plus bytes over the limit, instead of keeping to the limit.
    """
    unit = abs(best.seconds) if 0 < abs(best.seconds) < np.inf else 1.0
    encoded = encode(net, unit)
    if soft:
        encoded = _softened(encoded)
    lines = [_line(net, encoded, memory, r) for r in np.flatnonzero(active).tolist()]
    added, bound = active.copy(), -np.inf
    for _ in range(ROUNDS):
        program = with_rows(encoded.program, lines)
        outcome = run(program, effort.nodes, effort.gap, effort.backend)
        if outcome.bound == np.inf and effort.backend != "highs" and refuted(net, best):
            outcome = run(program, effort.nodes, effort.gap)
        bound = max(bound, lowered(outcome.bound * unit))
        if outcome.values is None:
            break
        full = net.lift(decode(net, encoded, outcome.values))
        best.offer(full)
        over = memory.used(full) - memory.limit - (outcome.values[-1] * unit * (1 + 1e-7) if soft else 0.0)
        worst = int(over.argmax())
        if over[worst] <= 0:
            break
        fresh = (over > 0) & ~added & (over >= over.max() / 2)
        added |= fresh
        lines += [_line(net, encoded, memory, r) for r in np.flatnonzero(fresh).tolist()]
        if not fresh.any() and soft:
            break
        if not fresh.any():
            lines.append(_cover(net, encoded, memory, outcome.values, worst))
    return bound


def _line(net: Network, encoded: Encoded, memory: Memory, row: int) -> Line:
    """A memory row, in units of what is left of the limit."""
    count = np.bincount(net.roots(), memory.counts(row), len(net.still))
    left = memory.limit - float(count @ net.still)
    varying = (i for i in np.flatnonzero(count).tolist() if i in encoded.bytes)
    parts = [(encoded.bytes[i][0], encoded.bytes[i][1] * count[i]) for i in varying]
    cols = np.concatenate([cols for cols, _ in parts] or [np.zeros(0, np.intp)])
    held = np.concatenate([held for _, held in parts] or [np.zeros(0)])
    cols, where = np.unique(cols, return_inverse=True)
    held = np.bincount(where, held, minlength=len(cols))
    if encoded.over is not None:
        cols, held = np.append(cols, encoded.over), np.append(held, -encoded.unit)
    scale = float(np.abs(held).max(initial=0.0)) or abs(left) or 1.0
    return cols, held / scale, left / scale


def _softened(encoded: Encoded) -> Encoded:
    """With one more variable, last: bytes over the limit, at a cost of 1 each."""
    program = encoded.program
    more = replace(
        program,
        cost=np.append(program.cost, 1.0),
        upper=np.append(program.upper, np.inf),
        integer=np.append(program.integer, False),
    )
    return replace(encoded, program=more, over=len(program.cost))


def _cover(net: Network, encoded: Encoded, memory: Memory, z: Array, row: int) -> Line:
    """What a solution holds in a row that it breaks by less than the tolerance may not all be held."""
    cols, held, _ = _line(net, encoded, memory, row)
    cols = cols[(z[cols] > 0.5) & (held > 0)]
    return cols, np.ones(len(cols)), len(cols) - 1.0
