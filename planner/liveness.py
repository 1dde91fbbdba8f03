"""Which buffers a program holds at once.

A value needs memory of its own only where a compiler cannot compute it while it reads or writes a neighbour: a chain of
elementwise operations holds nothing in between. Live sets follow from program order; only maximal ones are kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from planner.graph import Edge, Graph, Node, Port


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
        live: The maximal live sets, in program order.
    """

    stored: frozenset[Port]
    live: tuple[Live, ...]


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
    last = max(node.end for node in graph.nodes) + 1
    intervals = [*_held(graph, readers, stored, donated, last), *_copies(graph, readers, last)]
    return Buffers(stored, tuple(_maximal(graph, sorted(intervals))))


def _ports(n: int, node: Node) -> Sequence[Port]:
    return [Port(n, r) for r in range(len(node.avals))]


def _stored(graph: Graph, node: Node, readers: Sequence[Edge]) -> bool:
    """Not computed on the fly by all its readers."""
    if node.role != "op" or not node.rule.fusible:
        return True
    return any(_stores(graph.nodes[e.target]) for e in readers)


def _stores(reader: Node) -> bool:
    return not (reader.rule.fusible and reader.role == "op")


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


def _copies(graph: Graph, readers: Mapping[Port, Sequence[Edge]], last: int) -> Iterator[_Interval]:
    """The copy that a reshard on an edge makes: as long as the place it fills; into a loop, to the loop's end."""
    for i, edge in enumerate(graph.edges):
        target = graph.nodes[edge.target]
        reads = readers.get(Port(edge.target), ()) if target.role in ("copy", "const") else ()
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
