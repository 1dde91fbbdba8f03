"""Equal parts of a problem as one: an unrolled program's layers share their variables and count as often as they occur.

What is equal is found by structure alone. Each node has a colour, at first what it costs and holds; a number of times
it takes on the colours of its neighbours and of the tables between (Weisfeiler and Leman 1968). Nodes of one colour
then have equal surroundings as far as that reaches: the same place in different layers, not too close to the first or
the last. Whatever is tied, a choice of the folded problem is one of the whole, at the same seconds and bytes; so it
never promises what it cannot hold. Its bound is of choices that keep equal layers alike, and is told nobody as one of
the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .problem import Array, Edge, Problem, Spans

ROUNDS = 4  # how far surroundings reach: more leave the first and the last layers freer, and the folded problem larger
REPEATS = 4  # fewer equal nodes are left free
WORTH = 0.5  # most of the nodes, and of the edges, that may be left


@dataclass(frozen=True, eq=False)
class Folded:
    """A problem with equal nodes tied.

    Attributes:
        problem: The folded problem.
        of: For each node of the whole, the node that stands for it.
    """

    problem: Problem
    of: Array

    def unfold(self, choice: Sequence[int]) -> tuple[int, ...]:
        """A choice of the whole problem."""
        return tuple(np.asarray(choice, np.intp)[self.of].tolist())

    def masks(self, masks: Mapping[int, Array]) -> dict[int, Array]:
        """What masks of the whole problem leave of the strategies that are tied."""
        out: dict[int, Array] = {}
        for n, mask in masks.items():
            at = int(self.of[n])
            out[at] = out[at] & mask if at in out else mask
        return out

    def either(self, masks: Mapping[int, Array]) -> dict[int, Array]:
        """What masks of the whole problem leave of the strategies of any of the nodes that are tied."""
        out: dict[int, Array] = {}
        free = set(self.of[[n for n in range(len(self.of)) if n not in masks]].tolist())
        for n, mask in masks.items():
            at = int(self.of[n])
            out[at] = out[at] | mask if at in out else mask
        return {n: mask for n, mask in out.items() if n not in free}


def fold(problem: Problem) -> Folded | None:
    """The folded problem; None where that leaves too much of the whole."""
    of, count = _classes(problem)
    if count > WORTH * len(problem.cost):
        return None
    folded = _Folding(problem, of).folded()
    return folded if len(folded.problem.edges) <= WORTH * len(problem.edges) else None


def _classes(problem: Problem) -> tuple[Array, int]:
    """The class of each node, numbered by first member, and how many there are."""
    key = _numbers(zip(_numbers(problem.cost), _numbers(problem.usage)))
    colour = _colours(problem, np.array(key, np.uint64))
    _, first, index, size = np.unique(colour, return_index=True, return_inverse=True, return_counts=True)
    nodes = np.arange(len(colour))
    first_of = np.where(size[index] >= REPEATS, first[index], nodes)
    first_of = np.where(np.array(key) == np.array(key)[first_of], first_of, nodes)  # should colours ever collide
    firsts, of = np.unique(first_of, return_inverse=True)
    return of, len(firsts)


def _colours(problem: Problem, key: Array) -> Array:
    labels = np.array(_labels(problem), np.uint64)
    u, v = (np.array([getattr(e, end) for e in problem.edges], np.intp) for end in "uv")
    colour = _mixed(key)
    for _ in range(ROUNDS):
        around = np.zeros_like(colour)
        np.add.at(around, u, _mixed(colour[v] ^ _mixed(2 * labels)))
        np.add.at(around, v, _mixed(colour[u] ^ _mixed(2 * labels + np.uint64(1))))
        colour = _mixed(colour ^ _mixed(around))
    return colour


def _mixed(x: Array) -> Array:
    """Every bit of the result depends on every bit of x (splitmix64, Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _labels(problem: Problem) -> list[int]:
    """Equal numbers for edges of equal tables."""
    parts = ([getattr(e, name) for e in problem.edges] for name in ("row", "col", "cost", "usage"))
    return _numbers(zip(*map(_numbers, parts)))


def _numbers(things: object) -> list[int]:
    """Equal numbers for equal arrays, or tuples, in the order of first appearance."""
    known: dict[object, int] = {}
    content: dict[object, int] = {}

    def number(thing: object) -> int:
        key = id(thing) if isinstance(thing, np.ndarray) else thing
        if key not in known:
            same = (thing.dtype.char, thing.shape, thing.tobytes()) if isinstance(thing, np.ndarray) else thing
            known[key] = content.setdefault(same, len(content))
        return known[key]

    return [number(thing) for thing in things]  # type: ignore[attr-defined]


class _Folding:
    """Ties nodes by class, adds up costs, and gives each load the moments of all that it stands for."""

    def __init__(self, problem: Problem, of: Array) -> None:
        self.problem, self.of = problem, of
        _, self.first, size = np.unique(of, return_index=True, return_counts=True)
        self.cost = [problem.cost[n] * k for n, k in zip(self.first, size)]
        self.usage = [problem.usage[n] for n in self.first]
        self.edges: list[Edge] = []
        self.loads: list[tuple[str, int]] = []  # where the bytes of each group of edges went

    def folded(self) -> Folded:
        groups: dict[tuple[int, int, int], list[int]] = {}
        for i, (edge, label) in enumerate(zip(self.problem.edges, _labels(self.problem))):
            groups.setdefault((int(self.of[edge.u]), int(self.of[edge.v]), label), []).append(i)
        stands = np.empty(len(self.problem.edges), np.intp)
        for (u, v, _), members in groups.items():
            place = self._within if u == v else self._between
            place(u, v, self.problem.edges[members[0]], len(members))
            stands[members] = len(self.loads) - 1
        return Folded(
            Problem(tuple(self.cost), tuple(self.edges), tuple(self.usage), self._live(stands), self.problem.limit),
            self.of,
        )

    def _between(self, u: int, v: int, edge: Edge, count: int) -> None:
        self.loads.append(("edge", len(self.edges)))
        self.edges.append(Edge(u, v, edge.row, edge.col, edge.cost * count, edge.usage))

    def _within(self, u: int, _: int, edge: Edge, count: int) -> None:
        """Where both ends are tied, the strategies pay; what they hold there, a follower holds for them."""
        self.cost[u] = self.cost[u] + count * edge.cost[edge.row, edge.col]
        self.loads.append(("none", -1) if edge.usage is None else ("node", len(self.cost)))
        if edge.usage is None:
            return
        every, same = np.arange(len(self.cost[u])), np.full((len(self.cost[u]),) * 2, np.inf)
        np.fill_diagonal(same, 0.0)
        self.edges.append(Edge(u, len(self.cost), every, every, same))
        self.cost.append(np.zeros(len(every)))
        self.usage.append(edge.usage[edge.row, edge.col])

    def _live(self, stands: Array) -> Spans:
        """The same moments; a load that stands for several has the spans of all."""
        nodes = len(self.cost)
        places = np.array([at + nodes * (kind == "edge") for kind, at in self.loads], np.intp)
        live, stand = self.problem.live, np.concatenate([self.of, places[stands]])
        load = stand[live.load]
        held = load >= 0
        return Spans(nodes, load[held], live.start[held], live.stop[held], live.labels)
