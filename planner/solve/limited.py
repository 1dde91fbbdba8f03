"""Branch and bound under the memory limit, with rows added where a solution breaks them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .free import Best, lowered
from .marginals import Encoded, decode, encode, with_rows
from .memory import Memory
from .network import Network
from .ortools import run

Array = np.ndarray
Line = tuple[Array, Array, float]
ROUNDS = 200  # of adding rows; each adds at least one that was broken


def exact_within(
    net: Network, memory: Memory, best: Best, active: Array, nodes: int, soft: bool = False
) -> float:
    """Improve `best` to the optimum within the limit of what is left; returns the bound.

    Args:
        net: Shrunk with its loads; at least one node is left.
        memory: The rows of `net.member`.
        best: Its score is infinite over the limit.
        active: Mask of the rows to start with.
        nodes: Most branch-and-bound nodes of each round.
        soft: Minimise seconds plus bytes over the limit, instead of keeping to the limit.
    """
    unit = abs(best.seconds) if 0 < abs(best.seconds) < np.inf else 1.0
    encoded = encode(net, unit)
    if soft:
        encoded = _softened(encoded)
    lines = [_line(net, encoded, memory.limit, r) for r in np.flatnonzero(active)]
    added, bound = active.copy(), -np.inf
    for _ in range(ROUNDS):
        outcome = run(with_rows(encoded.program, lines), nodes)
        bound = max(bound, lowered(outcome.bound * unit))
        if outcome.values is None:
            break
        full = net.lift(decode(net, encoded, outcome.values))
        best.offer(full)
        over = memory.rows(full) - memory.limit - (outcome.values[-1] * unit * (1 + 1e-7) if soft else 0.0)
        worst = int(over.argmax())
        if over[worst] <= 0:
            break
        fresh = (over > 0) & ~added & (over >= over.max() / 2)
        added |= fresh
        lines += [_line(net, encoded, memory.limit, r) for r in np.flatnonzero(fresh)]
        if not fresh.any() and soft:
            break
        if not fresh.any():
            lines.append(_cover(net, encoded, outcome.values, worst))
    return min(best.seconds, bound)


def _line(net: Network, encoded: Encoded, limit: float, row: int) -> Line:
    """A memory row, in units of what is left of the limit."""
    parts = [encoded.bytes[i] for i in np.flatnonzero(net.member[row]) if i in encoded.bytes]
    cols = np.concatenate([cols for cols, _ in parts] or [np.zeros(0, np.intp)])
    held = np.concatenate([held for _, held in parts] or [np.zeros(0)])
    cols, where = np.unique(cols, return_inverse=True)
    held = np.bincount(where, held, minlength=len(cols))
    if encoded.over is not None:
        cols, held = np.append(cols, encoded.over), np.append(held, -encoded.unit)
    scale = max(float(np.abs(held).max(initial=0.0)), 1e-300)
    return cols, held / scale, (limit - net.base[row]) / scale


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


def _cover(net: Network, encoded: Encoded, z: Array, row: int) -> Line:
    """What the solution holds in a row that it breaks by less than the tolerance may not all be held at once."""
    cols, held, _ = _line(net, encoded, 0.0, row)
    cols = cols[(z[cols] > 0.5) & (held > 0)]
    return cols, np.ones(len(cols)), len(cols) - 1.0
