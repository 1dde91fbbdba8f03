"""Which buffers a program holds at once.

A value needs memory of its own only where a compiler cannot compute it while it reads or writes a neighbour: a chain of
elementwise operations holds nothing in between, a matmul widens a narrow weight while it reads it, and reads a slice of
a stack, as of a KV cache, where it lies. Live sets follow from program order; only maximal ones are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np

from planner.again import again
from planner.diamonds import diamonds
from planner.graph import Edge, Graph, Node, Port
from planner.handover import Handovers, handovers
from planner.reads import Reads, end_of, reads_of
from planner.solve import Spans
from planner.work import is_matmul


@dataclass(frozen=True)
class Buffers:
    """What needs memory.

    Attributes:
        stored: Ports whose value lies in HBM.
        widened: Nodes that convert a stored value to a wider type for a matmul, which does so while it reads it; or
            that compute its operand otherwise (`planner.diamonds`).
        cut: Nodes that cut a slice for matmuls only, which read it where it lies.
        live: What is held when; load `n` is node `n`, load `nodes + e` edge `e`. A moment is one where something starts
            and, before anything else does, something ends: the live sets of others are parts of these.
        handed: Edges along which a buffer is handed over: where layouts differ, the source's bytes count as well.
        copied: Edges whose value is copied in any case.
        beside: Nodes that read a value where it is written.
        again: Operands that are read again, with the bytes of an element (`planner.again`).
    """

    stored: frozenset[Port]
    live: Spans
    widened: frozenset[int] = frozenset()
    cut: frozenset[int] = frozenset()
    handed: frozenset[int] = frozenset()
    copied: frozenset[int] = frozenset()
    beside: frozenset[int] = frozenset()
    again: Mapping[tuple[int, int], int] = field(default_factory=dict)


BORDER = ("slice", "const", "carry")
CUTS = ("dynamic_slice", "slice", "squeeze")
FUSED = 96  # operations that a value may be computed on the fly by: the operands that XLA lets a fusion have on GPUs
Interval = tuple[int, int, int]
"""First time, last time, load."""


def buffers(graph: Graph) -> Buffers:
    """The buffers of a graph."""
    readers = graph.readers
    stored = frozenset(
        p for n, node in enumerate(graph.nodes) for p in graph.ports[n] if _stored(graph, node, readers.get(p, ()))
    )
    stored |= _crowded(graph, stored, readers)
    widened = frozenset(e.target for e in graph.edges if e.source in stored and _widens(graph, e, readers))
    cut, found = _cut(graph, readers), diamonds(graph, stored, readers)
    widened |= found.read
    stored = (stored | {Port(n) for n in found.stored}) - {Port(n) for n in widened | cut}
    reads = reads_of(graph, stored)
    shared = handovers(graph, reads)
    intervals = [*_held(graph, stored, shared), *_copies(graph, reads, stored, shared)]
    handed, copied = frozenset(shared.edges), frozenset(shared.copied) - frozenset(shared.edges)
    more = again(graph, stored, found.beside)
    return Buffers(stored, _maximal(graph, intervals), widened, cut, handed, copied, found.beside, more)


def _stored(graph: Graph, node: Node, readers: Sequence[Edge]) -> bool:
    """Not computed on the fly by all its readers."""
    if node.role != "op" or not node.rule.fusible:
        return True
    return any(_stores(graph.nodes[e.target]) for e in readers)


def _crowded(graph: Graph, stored: frozenset[Port], readers: Mapping[Port, Sequence[Edge]]) -> frozenset[Port]:
    """What too many operations would compute on the fly: no compiler fuses without end."""
    found: set[Port] = set()
    size: dict[Port, int] = {}
    for n in sorted(range(len(graph.nodes)), key=lambda n: -graph.nodes[n].time):
        for port in graph.ports[n]:
            onward = [p for e in readers.get(port, ()) for p in graph.ports[e.target]]
            many = len(readers.get(port, ())) + sum(size.get(p, 0) for p in onward)
            size[port] = 0 if port in stored or many > FUSED else many
            if port not in stored and many > FUSED:
                found.add(port)
    return frozenset(found)


def _stores(reader: Node) -> bool:
    return not (reader.rule.fusible and reader.role == "op")


def _widens(graph: Graph, edge: Edge, readers: Mapping[Port, Sequence[Edge]]) -> bool:
    """Reading the narrow value costs less than reading a wide copy, and the only reader is a matmul."""
    node, reads = graph.nodes[edge.target], readers.get(Port(edge.target), ())
    if node.name != "convert_element_type" or node.role != "op" or len(reads) != 1:
        return False
    wider = node.avals[0].itemsize > graph.aval(edge.source).itemsize
    reader = graph.nodes[reads[0].target]
    return wider and reader.role == "op" and is_matmul(reader.rule)


def _cut(graph: Graph, readers: Mapping[Port, Sequence[Edge]]) -> frozenset[int]:
    """Slices whose readers are matmuls, or likewise cut: found from the last to the first."""
    found: set[int] = set()
    for n in sorted(range(len(graph.nodes)), key=lambda n: -graph.nodes[n].time):
        targets, node = [e.target for e in readers.get(Port(n), ())], graph.nodes[n]
        if node.role == "op" and node.name in CUTS and targets and all(_reads_slices(graph, t, found) for t in targets):
            found.add(n)
    return frozenset(found)


def _reads_slices(graph: Graph, n: int, cut: AbstractSet[int]) -> bool:
    node = graph.nodes[n]
    return n in cut or (node.role == "op" and is_matmul(node.rule))


def _held(graph: Graph, stored: frozenset[Port], shared: Handovers) -> Iterator[Interval]:
    """Arguments stay to the end, everything else until nobody reads it, or someone takes its buffer over."""
    last = end_of(graph)
    for n, node in enumerate(graph.nodes):
        start, stop = (0, last) if node.role == "input" else (node.time, shared.stops[n])
        if n not in shared.residents and start <= stop and any(port in stored for port in graph.ports[n]):
            yield start, stop, n


def _copies(graph: Graph, reads: Reads, stored: frozenset[Port], shared: Handovers) -> Iterator[Interval]:
    looped = {edge.source.node for edge in graph.edges if graph.nodes[edge.target].role in BORDER}
    for i, edge in enumerate(graph.edges):
        start, stop = shared.edges.get(i) or shared.copied.get(i) or _copy(graph, edge, reads, stored)
        if graph.nodes[edge.target].role == "input":  # a loop reads a copy of what a collective will bring anew
            start, stop = 0 if edge.target in looped else start, end_of(graph)
        yield start, stop, len(graph.nodes) + i


def _copy(graph: Graph, edge: Edge, reads: Reads, stored: frozenset[Port]) -> tuple[int, int]:
    """When there is the copy that a reshard makes: as long as the place it fills; into a loop, to the loop's end."""
    target, made = graph.nodes[edge.target], graph.nodes[edge.source.node].time
    if target.role in ("stack", "input"):
        return made, made
    if target.role == "output":
        return target.time, end_of(graph)
    results = graph.ports[edge.target]
    lasts = target.role == "copy" or not any(port in stored for port in results)
    later = [read.time for port in results for read in reads[port]] if lasts else []
    return target.time, max([target.time, target.end, *later])


def _maximal(graph: Graph, intervals: Sequence[Interval]) -> Spans:
    """The spans of all loads over the maximal live sets."""
    first, last, load = np.array(sorted(intervals, key=lambda i: i[2]), np.intp).reshape(-1, 3).T
    labels = {node.time: node.source for node in graph.nodes if node.source}
    starts = np.unique(first)
    ends = np.searchsorted(starts, last, side="right")
    something_ends = np.zeros(len(starts) + 1, bool)
    something_ends[ends] = True
    kept = something_ends[1:]
    moment = np.concatenate([[0], kept.cumsum()])
    start, stop = moment[np.searchsorted(starts, first)], moment[ends]
    some = start < stop
    return Spans(
        len(graph.nodes), load[some], start[some], stop[some], tuple(labels.get(t, "") for t in starts[kept].tolist())
    )
