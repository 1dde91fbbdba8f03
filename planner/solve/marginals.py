"""A network as an integer program: x chooses strategies, y joins specs, and y's sums over either side are x's.

    Σ_s x[n, s] = 1,   Σ_q y[e, p, q] = Σ_{s shows p} x[u, s],   Σ_p y[e, p, q] = Σ_{t shows q} x[v, t]

Only x is integer; with it y is. Impossible cells have no variable. Memory rows are added where a solution breaks them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .network import Array, Network
from .ortools import Program, run


@dataclass(frozen=True)
class Encoded:
    """A program without memory rows, and what its variables mean.

    Attributes:
        program: The program; costs are in units of `unit` seconds.
        first: The variable of the first strategy of each node; its others follow.
        bytes: What each variable holds, by load.
        unit: Seconds.
        over: The variable for bytes over the limit, if there is one.
    """

    program: Program
    first: dict[int, int]
    bytes: dict[int, tuple[Array, Array]]
    unit: float
    over: int | None = None


class _Rows:
    """Collects equality rows as triples."""

    def __init__(self) -> None:
        self.parts: list[tuple[Array, Array, Array]] = []
        self.high: list[Array] = []
        self.count = 0

    def add(self, rows: list[Array], cols: list[Array], values: list[float], high: Array) -> None:
        for row, col, value in zip(rows, cols, values):
            self.parts.append((row + self.count, col, np.full(len(row), value)))
        self.high.append(high)
        self.count += len(high)

    def sorted(self) -> tuple[Array, Array, Array]:
        rows, cols, values = (np.concatenate(part) for part in zip(*self.parts))
        order = np.lexsort((cols, rows))
        return rows[order], cols[order], values[order]


def encode(net: Network, unit: float) -> Encoded:
    """The marginal encoding of a network of at least one node, `unit` seconds being 1."""
    first, held, count, rows = {}, {}, 0, _Rows()
    cost: list[Array] = []
    for n in sorted(net.unary):
        first[n], k = count, len(net.unary[n])
        cost.append(net.unary[n])
        rows.add([np.zeros(k, np.intp)], [count + np.arange(k)], [1.0], np.ones(1))
        held |= {i: (count + np.arange(k), b) for i, b in net.loads[n].items()}
        count += k
    choices = count
    for u, v, table in net.pairs():
        p, q = np.nonzero(table.possible)
        y = count + np.arange(len(p))
        cost.append(table.cost[p, q])
        x_u, x_v = first[u] + np.arange(len(table.row)), first[v] + np.arange(len(table.col))
        rows.add([p, table.row], [y, x_u], [1.0, -1.0], np.zeros(table.cost.shape[0]))
        rows.add([q, table.col], [y, x_v], [1.0, -1.0], np.zeros(table.cost.shape[1]))
        held |= {i: (y, b[p, q]) for i, b in zip(net.carried(u, v), table.held)}
        count += len(p)
    high = np.concatenate(rows.high)
    integer = np.arange(count) < choices
    program = Program(
        np.concatenate(cost) / unit,
        np.ones(count),
        integer,
        *rows.sorted(),
        low=high,
        high=high,
        offset=net.constant / unit,
    )
    return Encoded(program, first, held, unit)


def variables(net: Network) -> int:
    """How many variables the encoding has."""
    cells = sum(int(table.possible.sum()) for _, _, table in net.pairs())
    return cells + sum(len(cost) for cost in net.unary.values())


def cells(net: Network) -> int:
    """How many cells its tables have."""
    return sum(table.cost.size for _, _, table in net.pairs())


def distinct(net: Network) -> int:
    """How many cells its tables have, equal ones counted once: what presolve, which remembers, has to look at."""
    return sum({id(table.cost): table.cost.size for _, _, table in net.pairs()}.values())


def with_rows(program: Program, lines: list[tuple[Array, Array, float]]) -> Program:
    """The program with rows `values @ z[cols] ≤ high` added."""
    if not lines:
        return program
    start = len(program.low)
    rows = [np.full(len(cols), start + r) for r, (cols, _, _) in enumerate(lines)]
    order = [np.argsort(cols) for cols, _, _ in lines]
    return replace(
        program,
        rows=np.concatenate([program.rows, *rows]),
        cols=np.concatenate([program.cols, *(line[0][o] for line, o in zip(lines, order))]),
        values=np.concatenate([program.values, *(line[1][o] for line, o in zip(lines, order))]),
        low=np.concatenate([program.low, np.full(len(lines), -np.inf)]),
        high=np.concatenate([program.high, [line[2] for line in lines]]),
    )


def decode(net: Network, encoded: Encoded, z: Array) -> dict[int, int]:
    """The choice that a solution means."""
    first = encoded.first
    return {n: int(z[first[n] : first[n] + len(cost)].argmax()) for n, cost in net.unary.items()}


__all__ = ["Encoded", "decode", "encode", "run", "with_rows"]
