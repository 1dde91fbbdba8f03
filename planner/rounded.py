"""float32 values that are stored in half of their bytes, as only matmuls read them, which round their operands.

A TPU multiplies float32 in bfloat16 unless a matmul asks for more. What is computed on the fly for such matmuls alone,
as the gradient of a softmax or of logits, its compiler rounds where it is made.
"""

from dataclasses import replace

from planner.graph import Graph, Node, Port
from planner.work import is_matmul

HALF = 2


def rounded(graph: Graph) -> Graph:
    """The graph with the bytes of an element that such values have."""
    some = {n for n, node in enumerate(graph.nodes) if _computed(graph, n, node) and _rounds(graph, Port(n))}
    some |= {e.target for e in graph.edges if e.source.node in some and graph.nodes[e.target].role == "copy"}
    return replace(graph, nodes=tuple(_halved(node) if n in some else node for n, node in enumerate(graph.nodes)))


def _computed(graph: Graph, n: int, node: Node) -> bool:
    """Of floats by elementwise operations; what widens a narrower value is no value of its own (`planner.liveness`)."""
    made = node.role == "op" and node.rule.fusible and node.name != "convert_element_type"
    return made and len(node.avals) == 1 and node.avals[0].dtype == "float32"


def _rounds(graph: Graph, port: Port) -> bool:
    """Whether all readers are matmuls that round, or read a copy for such."""
    targets = [(e.target, graph.nodes[e.target]) for e in graph.readers.get(port, ())]
    return bool(targets) and all(
        _rounds(graph, Port(n))
        if node.role == "copy"
        else node.role == "op" and is_matmul(node.rule) and node.rule.precision == "default"
        for n, node in targets
    )


def _halved(node: Node) -> Node:
    return replace(node, avals=(replace(node.avals[0], itemsize=HALF),))
