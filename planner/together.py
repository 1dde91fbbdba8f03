"""Strategies and orders of axes chosen together, where orders cost something.

The integer program chooses sets of axes, their order comes after (`planner.order`). Where no order spares a permute,
the nodes around it choose again, among all strategies that can pay and all orders of their axes, with permutes in the
tables. All other nodes keep their strategies, in any order. What can pay, message passing tells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from planner.cost.model import CostModel
from planner.formulate import Formulation
from planner.order import Ordered, Placed, order_counts, permuting, placings
from planner.solve import Edge, Problem, Ready, Solution, evaluate, floors, solve

Array = np.ndarray
NEAR = (6, 3)
"""Edges between a permute and the nodes that choose again; fewer where that are too many."""
SLACK = 3e-3
"""Share of the limit that a node may hold more."""
SHARES = (1 / 512, 1 / 64, 1 / 8, 1.0)
"""What choices may take more than the best sets of axes, as shares of what its permutes take: few can pay first."""
PLACES, EACH, WHOLE = 20_000, 8, 8_000
"""Most strategies times orders to choose among in all, or for each node, whichever are more; of a whole program."""
WIDER = 2.0
"""Times as many at least, for a step of its own."""


def together(formulation: Formulation, made: Ready, solution: Solution, ordered: Ordered, model: CostModel) -> Solution:
    """A solution that takes as long with its permutes as the given one, or less.

    Its bound counts permutes too where few enough strategies of all nodes can pay. Where too many can, or equal nodes
    are kept alike, the nodes near permutes choose again, and the bound is that of the given one.

    Args:
        formulation: The integer program.
        made: The same, ready.
        solution: A strategy for each node.
        ordered: Its orders, with permutes.
        model: What permutes cost.
    """
    choice, whole = solution.choice, made.alike is None
    if whole:
        least = floors(made, {}, solution.price)
        best, bound = _again(formulation, solution, ordered, model, least, WHOLE)
        if best:
            return replace(solution, choice=best, bound=max(bound, solution.bound))
    for near in NEAR:
        masks = _masks(formulation.problem, choice, _around(formulation, ordered.permutes, near))
        size = max(PLACES, EACH * len(choice))
        best, _ = _again(formulation, solution, ordered, model, floors(made, masks), size)
        if best:
            return replace(solution, choice=best)
    return solution


def _again(
    formulation: Formulation, solution: Solution, ordered: Ordered, model: CostModel, least: Sequence[Array], size: int
) -> tuple[tuple[int, ...], float]:
    """The best choice by these floors, if it is among few enough, and a bound on all choices that the floors know.

    What can pay is looked at further and further above the best sets of axes, but not above the best choice so far;
    steps that hardly add anything are left out.
    """
    seconds, counts = evaluate(formulation.problem, solution.choice), order_counts(formulation)
    values = [seconds + share * ordered.seconds for share in SHARES]
    placed, bound, top = (), -np.inf, values[-1]
    for value, wider in zip(values, (*values[1:], top)):
        paying, more = (_paying(solution.choice, least, min(v, top)) for v in (value, wider))
        many, further = (sum(int(count[some].sum()) for count, some in zip(counts, every)) for every in (paying, more))
        if many > size:
            break
        if value < top and further <= min(size, WIDER * many):
            continue
        domains = placings(formulation, [some.tolist() for some in paying])
        start = tuple(d.index(p) for d, p in zip(domains, placed or zip(solution.choice, ordered.orders)))
        found = solve(_joint(formulation, domains, model), starts=[start], free=False)
        placed = tuple(domain[i] for domain, i in zip(domains, found.choice))
        bound, top = min(value, found.bound), min(top, found.seconds)
        if top <= value:
            break
    return tuple(x for x, _ in placed), bound


def _paying(choice: Sequence[int], least: Sequence[Array], value: float) -> list[Array]:
    """For each node what it took and what it can take for at most some seconds."""
    return [np.flatnonzero((floor <= value) | (np.arange(len(floor)) == x)) for floor, x in zip(least, choice)]


def _masks(problem: Problem, choice: Sequence[int], free: set[int]) -> dict[int, Array]:
    """What may still be chosen: of the nodes in `free` what holds hardly more, so that memory may be left aside."""
    fits = {n: problem.usage[n] <= problem.usage[n][choice[n]] + SLACK * problem.limit for n in free}
    return fits | {n: np.arange(len(c)) == choice[n] for n, c in enumerate(problem.cost) if n not in free}


def _around(formulation: Formulation, edges: Iterable[int], near: int) -> set[int]:
    """The nodes near some edges."""
    beside: dict[int, set[int]] = {}
    for edge in formulation.problem.edges:
        beside.setdefault(edge.u, set()).add(edge.v)
        beside.setdefault(edge.v, set()).add(edge.u)
    ends = ((formulation.problem.edges[i].u, formulation.problem.edges[i].v) for i in edges)
    found = {n for pair in ends for n in pair}
    for _ in range(near):
        found |= {m for n in found for m in beside[n]}
    return found


def _joint(formulation: Formulation, domains: Sequence[Sequence[Placed]], model: CostModel) -> Problem:
    """The integer program over strategies and orders, with what permutes cost."""
    problem, at = formulation.problem, [np.array([x for x, _ in domain], np.intp) for domain in domains]
    edges: list[Edge] = [replace(e, row=e.row[at[e.u]], col=e.col[at[e.v]]) for e in problem.edges]
    permutes = (edge for edge in permuting(formulation, domains, model) if edge.cost.any())
    return replace(
        problem,
        cost=tuple(cost[some] for cost, some in zip(problem.cost, at)),
        usage=tuple(usage[some] for usage, some in zip(problem.usage, at)),
        edges=(*edges, *permutes),
    )
