"""Who reads a buffer, until when, and whether the reader may write over it.

What is computed on the fly has no buffer: its readers read the buffers that it was computed from, so these live until
the end of the whole fused chain.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from planner.graph import Graph, Node, Port


@dataclass(frozen=True)
class Read:
    """A buffer's use by a node that has a buffer of its own.

    Attributes:
        target: The reader.
        time: When it has read.
        aligned: It writes each element where it read it, if at all: it may take over the buffer.
        edges: The edges on the way, more than one where values between are computed on the fly.
    """

    target: int
    time: int
    aligned: bool
    edges: frozenset[int]

    def beside(self, other: "Read") -> "Read":
        """Both of two ways to one reader."""
        edges = self.edges | other.edges
        return replace(self, time=max(self.time, other.time), aligned=self.aligned and other.aligned, edges=edges)


Reads = Mapping[Port, Sequence[Read]]


def end_of(graph: Graph) -> int:
    """When the program is over."""
    return graph.end


def reads_of(graph: Graph, stored: AbstractSet[Port]) -> Reads:
    """The reads of every port, seen through what is not `stored`."""
    leaving: dict[Port, list[int]] = defaultdict(list)
    for i, edge in enumerate(graph.edges):
        leaving[edge.source].append(i)
    last, found = end_of(graph), {}
    for n in sorted(range(len(graph.nodes)), key=lambda n: -graph.nodes[n].time):
        for port in graph.ports[n]:
            merged: dict[int, Read] = {}
            for read in (read for i in leaving[port] for read in _reads(graph, i, stored, found, last)):
                merged[read.target] = read.beside(merged[read.target]) if read.target in merged else read
            found[port] = tuple(merged.values())
    return found


def _reads(graph: Graph, i: int, stored: AbstractSet[Port], found: Reads, last: int) -> Iterator[Read]:
    edge = graph.edges[i]
    target, aligned = graph.nodes[edge.target], _aligned(graph, i)
    results = graph.ports[edge.target]
    if target.role != "copy" and (target.role != "op" or any(port in stored for port in results)):
        yield Read(edge.target, _time(graph, edge.source.node, target, last), aligned, frozenset({i}))
        return
    for read in (read for port in results for read in found[port]):
        yield replace(read, aligned=read.aligned and aligned, edges=read.edges | {i})


def _time(graph: Graph, source: int, target: Node, last: int) -> int:
    start = graph.nodes[source].time
    if target.role == "output":
        return last
    if target.role in ("const", "slice"):
        return target.end
    return start if target.role == "stack" else max(start, target.time)


def _aligned(graph: Graph, i: int) -> bool:
    """An update in place, an elementwise operation, or a loop's carry that begins."""
    edge = graph.edges[i]
    node, rule, aval = graph.nodes[edge.target], graph.nodes[edge.target].rule, graph.aval(edge.source)
    if node.role != "op":
        return node.role in ("carry", "value", "copy")
    same = bool(node.avals) and (aval.shape, aval.itemsize) == (node.avals[0].shape, node.avals[0].itemsize)
    if len(node.avals) > 1 or not same or rule.operands[edge.operand] != rule.results[0]:
        return False
    if rule.fusible:
        return not rule.whole
    return bool(rule.touched) and rule.touched[edge.operand] == rule.touched[-1]
