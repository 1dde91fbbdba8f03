"""The order of several mesh axes within one dim, settled after the layouts.

From a dim split by (x, y), gathering y is one all_gather; gathering x first needs a permute. So does what a
reduce_scatter brings to a dim behind what an all_to_all brings, as the scatter comes first. The integer program
chooses *sets* of axes, which is a relaxation: its bound stays a bound. Here each node picks an order for every factor
that two or more axes split, so that the permutes cost least: the same kind of problem, with at most a few orders per
node.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial

import numpy as np

from passes.way import Shard
from planner.cost.model import CostModel
from planner.formulate import Formulation
from planner.graph import Edge, Node
from planner.permutes import Permute, Permutes
from planner.sharding import names_of
from planner.solve import Problem, evaluate, ready, solve
from planner.solve import problem as integer
from planner.strategy import NO_RING, Ring, Strategies

Array = np.ndarray
Order = Mapping[int, tuple[str, ...]]
"""The mesh axes of each factor, major to minor; those of a ring under the key RING."""
Placed = tuple[int, Order]
"""A strategy of a node, and the order of its axes."""
RING = -1


@dataclass(frozen=True)
class Ordered:
    """For each node, for each factor, its mesh axes major to minor; for some edges permutes, and how often they run."""

    orders: tuple[Order, ...]
    permutes: Mapping[int, tuple[Permute, ...]]
    seconds: float
    trips: Mapping[int, float]


def order_axes(formulation: Formulation, choice: Sequence[int], model: CostModel) -> Ordered:
    """The cheapest orders for a choice of strategies."""
    domains = placings(formulation, [(x,) for x in choice])
    edges, free = tuple(permuting(formulation, domains, model)), {id(d): np.zeros(len(d)) for d in domains}
    cost = tuple(free[id(domain)] for domain in domains)
    made = ready(Problem(cost, edges, cost))
    picked = solve(made, free=not made.large).choice
    placed, prices = [domain[i] for domain, i in zip(domains, picked)], Permutes(formulation.mesh, model)
    dear = [i for i, e in enumerate(edges) if e.cost[e.row[picked[e.u]], e.col[picked[e.v]]] > 0]
    some = {i: formulation.graph.edges[i] for i in dear}
    way = {i: ends(formulation, e, placed[e.source.node], placed[e.target]) for i, e in some.items()}
    permutes = {i: prices.between(*way[i], _nbytes(formulation, e)) for i, e in some.items()}
    trips = {i: e.trips for i, e in some.items()}
    return Ordered(tuple(order for _, order in placed), permutes, evaluate(made.problem, picked), trips)


def placings(formulation: Formulation, among: Sequence[Sequence[int]]) -> list[list[Placed]]:
    """Some strategies of each node, each in every order of its axes. Equal nodes share their lists."""
    known: dict[object, list[Placed]] = {}

    def placed(n: int, some: Sequence[int]) -> list[Placed]:
        key = (id(formulation.strategies[n]), formulation.graph.nodes[n].pin, tuple(some))
        if key not in known:
            known[key] = [(x, order) for x in some for order in _orders(formulation, n, x)]
        return known[key]

    return [placed(n, some) for n, some in enumerate(among)]


def order_counts(formulation: Formulation) -> list[Array]:
    """How many orders each strategy of each node has."""
    known: dict[object, Array] = {}

    def counts(n: int, node: Node) -> Array:
        key = (id(formulation.strategies[n]), node.pin)
        if key not in known:
            known[key] = _order_counts(formulation.strategies[n], _user_order(node))
        return known[key]

    return [counts(n, node) for n, node in enumerate(formulation.graph.nodes)]


def _order_counts(strategies: Strategies, fixed: Order) -> Array:
    ways = np.array([factorial(mask.bit_count()) for mask in range(len(strategies.mesh.size))])
    free = [f for f in range(len(strategies.rule.sizes)) if f not in fixed]
    rings = np.where(strategies.rings[:, 0] == NO_RING, 0, strategies.rings[:, 2])
    return ways[strategies.factor_masks[:, free]].prod(1) * ways[rings]


def _orders(formulation: Formulation, n: int, x: int) -> Iterator[Order]:
    """Every order of the axes on each factor; the user's own where a spec is pinned."""
    strategies, mesh = formulation.strategies[n], formulation.mesh
    sets = {f: mesh.axes(int(m)) for f, m in enumerate(strategies.factor_masks[x]) if m}
    sets |= {RING: ring.axes} if (ring := strategies.ring(x)) else {}
    fixed = _user_order(formulation.graph.nodes[n])
    options = [[fixed[f]] if f in fixed else list(permutations(axes)) for f, axes in sets.items()]
    for picked in product(*options):
        yield dict(zip(sets, picked))


def _user_order(node: Node) -> Order:
    if node.pin is None:
        return {}
    dims = zip(node.rule.results[0], node.pin)
    return {dim[0]: names_of(entry) for dim, entry in dims if dim and len(names_of(entry)) > 0}


def dim_axes(dims: Sequence[Sequence[int]], order: Order, last: Order | None = None) -> list[tuple[str, ...]]:
    """Mesh axes of each dim, major to minor; those of `last` come after the factor's own."""
    tail = last or {}
    return [tuple(axis for f in dim for axis in (*order.get(f, ()), *tail.get(f, ()))) for dim in dims]


def operand_axes(formulation: Formulation, n: int, x: int, i: int, order: Order) -> list[tuple[str, ...]]:
    """Mesh axes of each dim of operand `i` as node `n` takes it under strategy `x`, a ring's axes last."""
    rule = formulation.graph.nodes[n].rule
    return dim_axes(rule.operands[i], order, _tail(formulation.strategies[n].ring(x), i, order))


def result_axes(formulation: Formulation, n: int, x: int, r: int, order: Order) -> list[tuple[str, ...]]:
    """Mesh axes of each dim of result `r` as node `n` shows it under strategy `x`, a ring's axes last."""
    rule = formulation.graph.nodes[n].rule
    return dim_axes(rule.results[r], order, _tail(formulation.strategies[n].ring(x), len(rule.operands) + r, order))


def _tail(ring: Ring | None, place: int, order: Order) -> Order:
    return {ring.factor: order[RING]} if ring and ring.place == place else {}


def permuting(
    formulation: Formulation, domains: Sequence[Sequence[Placed]], model: CostModel
) -> Iterator[integer.Edge]:
    """What permutes cost along each edge, all trips, for each of `placings` at its ends. Equal edges share tables."""
    graph, known, prices = formulation.graph, {}, Permutes(formulation.mesh, model)
    for edge in graph.edges:
        u, v = edge.source.node, edge.target
        key = (id(domains[u]), id(domains[v]), edge.source.result, edge.operand, graph.aval(edge.source), edge.trips)
        if key not in known:
            known[key] = _table(formulation, edge, domains[u], domains[v], prices)
        row, col, cost = known[key]
        yield integer.Edge(u, v, row, col, cost)


def _table(
    formulation: Formulation,
    edge: Edge,
    sources: Sequence[Placed],
    targets: Sequence[Placed],
    prices: Permutes,
) -> tuple[Array, Array, Array]:
    """The row and column of each way to place the ends, and the seconds of each pair."""
    shards = [_have(formulation, edge, a) for a in sources], [_want(formulation, edge, b) for b in targets]
    (rows, row), (cols, col) = map(_distinct, shards)
    return row, col, prices.table(rows, cols, _nbytes(formulation, edge)) * edge.trips


def _nbytes(formulation: Formulation, edge: Edge) -> float:
    aval = formulation.graph.aval(edge.source)
    return aval.elements * aval.itemsize


def _distinct(shards: Sequence[Shard]) -> tuple[list[Shard], Array]:
    """The shards that differ, and which of them each is."""
    first = {shard: i for i, shard in enumerate(dict.fromkeys(shards))}
    return list(first), np.array([first[shard] for shard in shards], np.intp)


def _have(formulation: Formulation, edge: Edge, placed: Placed) -> Shard:
    (x, order), (n, r) = placed, (edge.source.node, edge.source.result)
    opened = formulation.mesh.axes(int(formulation.strategies[n].result(r)[x, -1]))
    return Shard(tuple(result_axes(formulation, n, x, r, order)), frozenset(opened))


def _want(formulation: Formulation, edge: Edge, placed: Placed) -> Shard:
    (x, order), (n, i) = placed, (edge.target, edge.operand)
    opened = formulation.mesh.axes(int(formulation.strategies[n].operand(i)[x, -1]))
    return Shard(tuple(operand_axes(formulation, n, x, i, order)), frozenset(opened))


def ends(formulation: Formulation, edge: Edge, a: Placed, b: Placed) -> tuple[Shard, Shard]:
    """How a value lies where an edge begins, and how its target takes it."""
    return _have(formulation, edge, a), _want(formulation, edge, b)
