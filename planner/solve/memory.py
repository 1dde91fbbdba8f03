"""The memory rows of a problem: maximal live sets only, and only those that can run over the limit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .problem import Live, Problem

Array = np.ndarray


class Memory:
    """Which loads each memory row adds up. Load `n` is node `n`, load `N + e` is edge `e`; bytes are never negative.

    Attributes:
        member: Shape [rows, loads].
        limit: Bytes.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem, self.limit = problem, problem.limit
        most = _most(problem)
        rows = _maximal([_members(live, len(problem.cost), most) for live in problem.live])
        binding = [row for row in rows if row @ most > problem.limit]
        self.member = np.array(binding, dtype=float).reshape(len(binding), len(most))

    def loads(self, choice: Sequence[int]) -> Array:
        """Bytes of each load under a choice of the whole problem."""
        nodes = [usage[x] for usage, x in zip(self.problem.usage, choice)]
        edges = [
            0.0 if e.usage is None else e.usage[e.row[choice[e.u]], e.col[choice[e.v]]] for e in self.problem.edges
        ]
        return np.array(nodes + edges, dtype=float)

    def rows(self, choice: Sequence[int]) -> Array:
        """Bytes of each row under a choice of the whole problem."""
        return self.member @ self.loads(choice)


def _most(problem: Problem) -> Array:
    nodes = [u[np.isfinite(c)].max(initial=0.0) for u, c in zip(problem.usage, problem.cost)]
    return np.array(nodes + [0.0 if e.usage is None else e.usage.max() for e in problem.edges], dtype=float)


def _members(live: Live, nodes: int, most: Array) -> Array:
    row = np.zeros(len(most))
    row[list(live.nodes)] = 1
    row[[nodes + e for e in live.edges]] = 1
    return row * (most > 0)


def _maximal(rows: list[Array]) -> list[Array]:
    """The rows that no other row contains; of equal ones the first."""
    if not rows:
        return []
    held = np.unique(np.array(rows), axis=0)
    size = held.sum(axis=1)
    inside = held @ held.T == size[:, None]
    np.fill_diagonal(inside, False)
    return list(held[~inside.any(axis=1)])
