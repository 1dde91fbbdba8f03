"""The integer program as numbers: choose one strategy per node, pay for nodes and for edges, fit into memory.

    minimise   Σ_n cost[n][x_n]  +  Σ_e edge.cost[edge.row[x_u], edge.col[x_v]]
    subject to Σ_{n held} usage[n][x_n] + Σ_{e held} edge.usage[edge.row[x_u], edge.col[x_v]] ≤ limit, each moment

An edge's tables run over the *distinct specs* that its two ends can show (`row` maps a strategy of `u` to its spec,
`col` one of `v`), not over pairs of strategies: that keeps them small and the linear relaxation tight.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Edge:
    """Costs between two nodes.

    Attributes:
        u: Index of the first node.
        v: Index of the second node, never `u`. Several edges may join one pair.
        row: For each strategy of `u`, its row: int array of shape [k_u].
        col: For each strategy of `v`, its column: int array of shape [k_v].
        cost: Seconds, shape [rows, cols]; `inf` where the pair is impossible.
        usage: Bytes while the edge is live, same shape, or None for none.
    """

    u: int
    v: int
    row: Array
    col: Array
    cost: Array
    usage: Array | None = None


@dataclass(frozen=True)
class Live:
    """Nodes and edges whose bytes are held at one moment; `label` says where in the program."""

    nodes: tuple[int, ...]
    edges: tuple[int, ...]
    label: str = ""


@dataclass(frozen=True, eq=False)
class Spans:
    """What is held when, as spans of moments: a live set per moment would be as long as the program, squared.

    Attributes:
        nodes: How many nodes there are. Load `n` is what node `n` holds, load `nodes + e` what edge `e` holds.
        load: The load of each span. A load may have several.
        start: Its first moment.
        stop: The moment after its last.
        labels: Where in the program each moment is.
    """

    nodes: int
    load: Array
    start: Array
    stop: Array
    labels: tuple[str, ...]

    def totals(self, held: Array) -> Array:
        """Bytes at each moment, of the bytes of each load."""
        change = np.zeros(len(self.labels) + 1)
        np.add.at(change, self.start, held[self.load])
        np.subtract.at(change, self.stop, held[self.load])
        return change.cumsum()[:-1]

    def at(self, moment: int) -> Live:
        """The live set of a moment."""
        loads = np.unique(self.load[(self.start <= moment) & (moment < self.stop)])
        nodes, edges = loads[loads < self.nodes], loads[loads >= self.nodes] - self.nodes
        return Live(tuple(nodes.tolist()), tuple(edges.tolist()), self.labels[moment])

    @cached_property
    def sets(self) -> tuple[Live, ...]:
        """Every live set, for programs that are small enough."""
        return tuple(self.at(moment) for moment in range(len(self.labels)))


def spans(lives: Iterable[Live], nodes: int) -> Spans:
    """Spans of given live sets, of a problem with so many nodes."""
    lives = tuple(lives)
    found = [
        (load, at) for at, live in enumerate(lives) for load in (*live.nodes, *(nodes + edge for edge in live.edges))
    ]
    load, at = np.array(found, np.intp).reshape(-1, 2).T
    return Spans(nodes, load, at, at + 1, tuple(live.label for live in lives))


@dataclass(frozen=True)
class Problem:
    """An instance. `cost[n]` in seconds and `usage[n]` in bytes have shape [k_n]; `limit` is in bytes."""

    cost: tuple[Array, ...]
    edges: tuple[Edge, ...]
    usage: tuple[Array, ...]
    live: Spans = field(default_factory=lambda: spans((), 0))
    limit: float = float("inf")


@dataclass(frozen=True)
class Solution:
    """A choice of one strategy per node.

    Attributes:
        choice: Index of the strategy of each node.
        seconds: The objective, as `evaluate` computes it.
        bound: Proven lower bound on the objective of any feasible choice.
        status: "optimal", "feasible" (stopped by the work limit) or "infeasible" (then `choice` is the choice that is
            least over the limit).
        excess: Bytes over the limit; zero unless infeasible.
        alike: Seconds of the best choice found in which equal parts are alike; infinite if that was not looked for.
        short: Proven: every choice is at least so many bytes over the limit. Zero where that is not known.
        price: Seconds of a byte in each memory row (of `Ready.memory`) behind the bound.
    """

    choice: tuple[int, ...]
    seconds: float
    bound: float
    status: str
    excess: float = 0.0
    short: float = 0.0
    alike: float = float("inf")
    price: tuple[float, ...] = ()

    @property
    def gap(self) -> float:
        """How far the objective may be from the best one, as a share of the objective."""
        return max(0.0, self.seconds - self.bound) / self.seconds if self.seconds > 0 else 0.0


def evaluate(problem: Problem, choice: Sequence[int]) -> float:
    """Seconds of a choice. Shares no code with any solver, so that it can check them."""
    nodes = sum(float(cost[x]) for cost, x in zip(problem.cost, choice))
    return nodes + sum(float(e.cost[e.row[choice[e.u]], e.col[choice[e.v]]]) for e in problem.edges)


def held(problem: Problem, choice: Sequence[int]) -> Array:
    """Bytes of each load of a choice."""
    nodes = [float(usage[x]) for usage, x in zip(problem.usage, choice)]
    found = (0.0 if e.usage is None else float(e.usage[e.row[choice[e.u]], e.col[choice[e.v]]]) for e in problem.edges)
    return np.array([*nodes, *found])


def peak(problem: Problem, choice: Sequence[int]) -> float:
    """Bytes of a choice at its fullest moment."""
    return float(problem.live.totals(held(problem, choice)).max(initial=0.0))
