"""The integer program as numbers: choose one strategy per node, pay for nodes and for edges, fit into memory.

    minimise   Σ_n cost[n][x_n]  +  Σ_e edge.cost[edge.row[x_u], edge.col[x_v]]
    subject to Σ_{n live} usage[n][x_n] + Σ_{e live} edge.usage[edge.row[x_u], edge.col[x_v]] ≤ limit, each live set

An edge's tables run over the *distinct specs* that its two ends can show (`row` maps a strategy of `u` to its spec,
`col` one of `v`), not over pairs of strategies: that keeps them small and the linear relaxation tight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Problem:
    """An instance. `cost[n]` in seconds and `usage[n]` in bytes have shape [k_n]; `limit` is in bytes."""

    cost: tuple[Array, ...]
    edges: tuple[Edge, ...]
    usage: tuple[Array, ...]
    live: tuple[Live, ...] = ()
    limit: float = float("inf")
    starts: tuple[tuple[int, ...], ...] = field(default=())


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
    """

    choice: tuple[int, ...]
    seconds: float
    bound: float
    status: str
    excess: float = 0.0

    @property
    def gap(self) -> float:
        """How far the objective may be from the best one, as a share of the objective."""
        return max(0.0, self.seconds - self.bound) / self.seconds if self.seconds > 0 else 0.0


def evaluate(problem: Problem, choice: Sequence[int]) -> float:
    """Seconds of a choice. Shares no code with any solver, so that it can check them."""
    nodes = sum(float(cost[x]) for cost, x in zip(problem.cost, choice))
    return nodes + sum(float(e.cost[e.row[choice[e.u]], e.col[choice[e.v]]]) for e in problem.edges)


def peak(problem: Problem, choice: Sequence[int]) -> float:
    """Bytes of a choice in its fullest live set."""
    return max((live_bytes(problem, live, choice) for live in problem.live), default=0.0)


def live_bytes(problem: Problem, live: Live, choice: Sequence[int]) -> float:
    """Bytes that one live set holds under a choice."""
    nodes = sum(float(problem.usage[n][choice[n]]) for n in live.nodes)
    edges = (problem.edges[i] for i in live.edges)
    return nodes + sum(float(e.usage[e.row[choice[e.u]], e.col[choice[e.v]]]) for e in edges if e.usage is not None)
