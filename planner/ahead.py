"""What a loop's trip can gather from its start, as it computes none of it: its slices of weights, of what was saved.

A compiler that starts collectives early (`Chip.ahead`) hides such gathers behind the matmuls of the trip. It does not
carry them from trip to trip, nor past a loop within.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from planner.cost.model import CostModel
from planner.graph import Body, Graph, Port
from planner.sharding import MeshShape
from planner.work import is_matmul

PLACES = ("copy", "value")
Operands = Sequence[Sequence[Port]]
"""For each node where its operands come from."""


def hidden(graph: Graph, mesh: MeshShape, model: CostModel, ahead: float) -> Mapping[int, float]:
    """For edges whose gathers start early, the share of them that is hidden, above 0.

    No choice enters, so that the program stays linear: the matmuls of a trip, split over all devices, hide gathers from
    all devices as long as they last, the shortest first, since of two operands a plan gathers the smaller. What is
    computed on the fly from one value, and that value itself, are gathered once.

    Args:
        graph: The program.
        mesh: Its devices.
        model: Seconds of matmuls and gathers.
        ahead: The share that a compiler hides where there is work enough.
    """
    found: dict[int, float] = {}
    operands = _operands(graph)
    bodies = [body for loop in graph.loops for body in loop.bodies] if ahead else []
    for body in bodies:
        if not any(_within(loop.path, body) for loop in graph.loops):
            inside = [n for n, node in enumerate(graph.nodes) if node.role == "op" and _within(node.path, body)]
            left = sum(_matmul(graph, n, operands, mesh, model) for n in inside if is_matmul(graph.nodes[n].rule))
            for seconds, edges in _shortest_first(graph, early(graph, body, operands), mesh, model):
                found |= dict.fromkeys(edges, ahead * min(1.0, left / seconds)) if seconds and left else {}
                left = max(0.0, left - seconds)
    return found


def _shortest_first(
    graph: Graph, groups: Sequence[Sequence[int]], mesh: MeshShape, model: CostModel
) -> list[tuple[float, Sequence[int]]]:
    """Groups of edges with the seconds of their shortest gather."""
    return sorted((min(_gather(graph, i, mesh, model) for i in edges), edges) for edges in groups)


def early(graph: Graph, body: Body, operands: Operands) -> Sequence[Sequence[int]]:
    """Edges within a body whose value is there when a trip starts, or computed on the fly from what is.

    In groups: those whose values come from the same inputs.
    """
    late = {n for n in body.outputs if n is not None}
    known = {n: frozenset([n]) for n in body.inputs if n is not None and n not in late}
    for n, node in sorted(enumerate(graph.nodes), key=lambda pair: pair[1].time):
        on_the_fly = node.role in PLACES or (node.role == "op" and node.rule.fusible and _within(node.path, body))
        if on_the_fly and operands[n] and all(port.node in known for port in operands[n]):
            known[n] = frozenset[int]().union(*(known[port.node] for port in operands[n]))
    found: dict[frozenset[int], list[int]] = {}
    for i, e in enumerate(graph.edges):
        if e.source.node in known and e.target not in late:
            found.setdefault(known[e.source.node], []).append(i)
    return list(found.values())


def _operands(graph: Graph) -> Operands:
    found: list[list[Port]] = [[] for _ in graph.nodes]
    for edge in graph.edges:
        found[edge.target].append(edge.source)
    return found


def _within(path: tuple, body: Body) -> bool:
    return len(path) > len(body.path) and path[: len(body.path)] == body.path


def _gather(graph: Graph, i: int, mesh: MeshShape, model: CostModel) -> float:
    """Seconds of one trip that gathers an edge's value from all devices."""
    aval = graph.aval(graph.edges[i].source)
    everywhere = np.asarray(len(mesh.size) - 1)
    return float(model.collective("all_gather", np.asarray(aval.elements * aval.itemsize), everywhere))


def _matmul(graph: Graph, n: int, operands: Operands, mesh: MeshShape, model: CostModel) -> float:
    """Seconds of one trip that splits a matmul over all devices."""
    rule, dtype = graph.nodes[n].rule, graph.aval(operands[n][0]).dtype
    flops = rule.flops * float(np.prod(rule.sizes, dtype=float)) / mesh.size[-1]
    return float(model.compute(np.asarray(flops), np.zeros(()), dtype))
