"""Which buffers a program holds at once.

A value needs memory of its own only where a compiler cannot compute it while it reads or writes a neighbour: a chain of
elementwise operations holds nothing in between, and a matmul widens a narrow weight while it reads it. Live sets
follow from program order; only maximal ones are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.graph import Edge, Graph, Node, Port
from planner.work import is_matmul


@dataclass(frozen=True)
class Live:
    """Nodes and edges whose buffers exist at one moment, at the source line `label`."""

    nodes: tuple[int, ...]
    edges: tuple[int, ...]
    label: str


@dataclass(frozen=True)
class Buffers:
    """What needs memory.

    Attributes:
        stored: Ports whose value lies in HBM.
        widened: Nodes that convert a stored value to a wider type for a matmul, which does so while it reads it.
        live: The maximal live sets, in program order.
    """

    stored: frozenset[Port]
    live: tuple[Live, ...]
    widened: frozenset[int] = frozenset()


@dataclass(frozen=True, order=True)
class _Interval:
    start: int
    stop: int
    edge: bool
    index: int


def buffers(graph: Graph, donated: frozenset[int] = frozenset()) -> Buffers:
    """The buffers of a graph; arguments that are not `donated` (by node) live as long as the program."""
    readers = graph.readers()
    stored = frozenset(
        p for n, node in enumerate(graph.nodes) for p in _ports(n, node) if _stored(graph, node, readers.get(p, ()))
    )
    widened = frozenset(e.target for e in graph.edges if e.source in stored and _widens(graph, e, readers))
    stored -= {Port(n) for n in widened}
    last = max(node.end for node in graph.nodes) + 1
    reads = {port: [*_through(edges, readers, widened)] for port, edges in readers.items()}
    intervals = [*_held(graph, reads, stored, donated, last), *_copies(graph, reads, widened, last)]
    return Buffers(stored, tuple(_maximal(graph, sorted(intervals))), widened)


def _ports(n: int, node: Node) -> Sequence[Port]:
    return [Port(n, r) for r in range(len(node.avals))]


def _stored(graph: Graph, node: Node, readers: Sequence[Edge]) -> bool:
    """Not computed on the fly by all its readers."""
    if node.role != "op" or not node.rule.fusible:
        return True
    return any(_stores(graph.nodes[e.target]) for e in readers)


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


def _through(edges: Sequence[Edge], readers: Mapping[Port, Sequence[Edge]], widened: frozenset[int]) -> Iterator[Edge]:
    """Who reads a value, also while it is widened."""
    for edge in edges:
        yield edge
        if edge.target in widened:
            yield from readers[Port(edge.target)]


def _held(
    graph: Graph, readers: Mapping[Port, Sequence[Edge]], stored: frozenset[Port], donated: frozenset[int], last: int
) -> Iterator[_Interval]:
    for n, node in enumerate(graph.nodes):
        ports = [port for port in _ports(n, node) if port in stored]
        if not ports:
            continue
        reads = [e for port in ports for e in readers.get(port, ())]
        stop = max((_until(graph.nodes[e.target], last) for e in reads), default=node.time)
        whole_program = node.role == "input" and (n not in donated or n in graph.outputs)
        yield _Interval(
            0 if node.role == "input" else node.time, last if whole_program else max(stop, node.time), False, n
        )


def _until(reader: Node, last: int) -> int:
    return last if reader.role in ("output", "input") else max(reader.time, reader.end)


def _copies(
    graph: Graph, readers: Mapping[Port, Sequence[Edge]], widened: frozenset[int], last: int
) -> Iterator[_Interval]:
    """The copy that a reshard on an edge makes: as long as the place it fills; into a loop, to the loop's end."""
    for i, edge in enumerate(graph.edges):
        target = graph.nodes[edge.target]
        lasts = target.role in ("copy", "const") or edge.target in widened
        reads = readers.get(Port(edge.target), ()) if lasts else ()
        stop = max((_until(graph.nodes[e.target], last) for e in reads), default=target.time)
        yield _Interval(target.time, last if target.role == "output" else max(stop, target.time, target.end), True, i)


def _maximal(graph: Graph, intervals: Sequence[_Interval]) -> Iterator[Live]:
    """A live set is maximal where something starts and, before anything else does, something ends."""
    labels = {node.time: node.source for node in graph.nodes if node.source}
    starts = sorted({i.start for i in intervals})
    for start, following in zip(starts, [*starts[1:], float("inf")]):
        now = [i for i in intervals if i.start <= start <= i.stop]
        if any(i.stop < following for i in now):
            yield Live(
                tuple(i.index for i in now if not i.edge), tuple(i.index for i in now if i.edge), labels.get(start, "")
            )
