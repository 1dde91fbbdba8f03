"""Values that share one buffer, as a compiler lets them.

A carry and a donated argument are **homes**: their buffer is there all the time, and what the body or the program
makes for them is written into it, if by then everything that reads what lies there is done. An update in place of a
value that nobody else reads any more, and a loop's carry, take their operand's buffer **over**. Arguments that no
result replaces stay, donated or not: XLA reuses a donated buffer for a result only.

Layouts are not known here. Where they differ along the `edges` of a handover there are two buffers: the source's
bytes count as well.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from planner.graph import Edge, Graph, Node
from planner.reads import Read, Reads, end_of

Span = tuple[int, int]
TEMPORARY = ("op", "carry", "value", "stack", "join")


@dataclass(frozen=True)
class Handovers:
    """Who has no buffer of its own, or not to its end.

    Attributes:
        residents: Nodes that live in the buffer of their home.
        stops: The last moment of every other node's buffer.
        edges: Edges along which a buffer is handed over, and when the source has one of its own if layouts differ.
        copied: Edges from carry to carry, whose value is copied in every step, and when.
    """

    residents: frozenset[int]
    stops: Mapping[int, int]
    edges: Mapping[int, Span]
    copied: Mapping[int, Span]


def handovers(graph: Graph, reads: Reads) -> Handovers:
    """Every handover of a program, decided in the order of its edges."""
    lodging = _Lodging(graph, reads)
    for i, edge in enumerate(graph.edges):
        if _returns(graph.nodes[edge.source.node], graph.nodes[edge.target]):
            lodging.settle(i, edge)
    copied = {i: _span(graph.nodes[e.target]) for i, e in enumerate(graph.edges) if _rotates(graph, e)}
    stops = lodging.stops
    for m in range(len(graph.nodes)):
        lodging.take_over(m)
    return Handovers(frozenset(lodging.residents), stops, lodging.edges, copied)


def _returns(source: Node, target: Node) -> bool:
    """Whether an edge brings a new value to where the old one lies."""
    return target.role == "input" or (target.role in ("carry", "join") and source.time >= target.time)


def _rotates(graph: Graph, edge: Edge) -> bool:
    source, target = graph.nodes[edge.source.node], graph.nodes[edge.target]
    return source.role == target.role == "carry" and source.time == target.time


def _span(node: Node) -> Span:
    return node.time, node.end


@dataclass
class _Lodging:
    graph: Graph
    reads: Reads
    residents: set[int] = field(default_factory=set)
    edges: dict[int, Span] = field(default_factory=dict)
    stops: dict[int, int] = field(init=False)
    taken: dict[int, list[tuple[int, Read]]] = field(init=False)

    def __post_init__(self) -> None:
        self.stops, self.taken = {}, defaultdict(list)
        for n, node in enumerate(self.graph.nodes):
            self.stops[n] = max((read.time for read in self.reads_of(n)), default=0)
            self.stops[n] = max(self.stops[n], node.time, node.end)
            for read in self.reads_of(n):
                if len(node.avals) == 1 and not self.shared(read):
                    self.taken[read.target].append((n, read))

    def reads_of(self, n: int) -> Sequence[Read]:
        return [read for port in self.graph.ports[n] for read in self.reads[port]]

    def shared(self, read: Read) -> bool:
        """Whether it reads a copy that others read too."""
        return any(self.graph.nodes[self.graph.edges[i].target].role == "copy" for i in read.edges)

    def settle(self, i: int, edge: Edge) -> None:
        """A value returns home: it lives there from the start, or waits until there is room."""
        home, value = edge.target, edge.source.node
        free = self.free(home)
        chain = self.chain(home, value, max((r.time for r in free), default=self.graph.nodes[home].time))
        if chain is None or self.residents & chain.keys():
            self.stops[value] = max([self.stops[value], *(r.time for r in free)])
            return
        start = min(self.graph.nodes[n].time for n in chain)
        for n, passed in chain.items():
            self.edges.update(dict.fromkeys(passed, (start, self.stops[n])))
        self.edges[i] = start, self.stops[value]
        self.residents.update(chain)

    def free(self, home: int) -> Sequence[Read]:
        """What reads the old value before the new one may replace it."""
        place = self.graph.nodes[home]
        if place.role == "join":
            return ()
        scope = place.end if place.role == "carry" else end_of(self.graph)
        readers = ((r, self.graph.nodes[r.target]) for r in self.reads_of(home))
        return [r for r, node in readers if node.time <= scope and not _returns(place, node)]

    def chain(self, home: int, value: int, until: int) -> dict[int, frozenset[int]] | None:
        """What lies in the home's buffer one after the other, with the edges that follow; None if there is no room."""
        found: dict[int, frozenset[int]] = {value: frozenset()}
        if self.graph.nodes[value].role not in TEMPORARY or len(self.graph.nodes[value].avals) > 1:
            return None
        while True:
            m = next(reversed(found))
            if self.reaches(home, m, until):
                return found
            before = next((pair for pair in self.taken[m] if self.lodges(home, *pair, until)), None)
            if before is None:
                return found if self.graph.nodes[m].time > until else None
            found[before[0]] = before[1].edges

    def reaches(self, home: int, m: int, until: int) -> bool:
        """Whether `m` is the last to read the home, and writes over it."""
        last = [r for r in self.free(home) if r.time == until]
        return self.graph.nodes[m].time == until and bool(last) and all(r.target == m and r.aligned for r in last)

    def lodges(self, home: int, n: int, read: Read, until: int) -> bool:
        if n in self.residents or self.graph.nodes[n].role not in TEMPORARY or not self.dies(n, read):
            return False
        return self.graph.nodes[n].time > until or self.reaches(home, n, until)

    def dies(self, n: int, read: Read) -> bool:
        """Whether the reader may take the buffer over: nobody reads it later, or at the same time elsewhere."""
        alone = all(r.time < read.time or r.target == read.target for r in self.reads_of(n))
        return read.aligned and alone and self.stops[n] == read.time == self.graph.nodes[read.target].time

    def take_over(self, m: int) -> None:
        """A temporary's buffer ends where its last reader, `m`, begins."""
        if m in self.residents or self.graph.nodes[m].role not in ("op", "carry"):
            return
        for n, read in self.candidates(m):
            self.stops[n] -= 1
            self.edges.update(dict.fromkeys(read.edges, (read.time, read.time)))
            return

    def candidates(self, m: int) -> Iterator[tuple[int, Read]]:
        """Temporaries that `m` may take; a fusion of several arrays often changes their shapes and takes none."""
        if not self.graph.nodes[m].avals:  # a callback gives nothing
            return
        elements = self.graph.nodes[m].avals[0].elements
        large = [n for n, _ in self.taken[m] if self.graph.nodes[n].avals[0].elements == elements]
        if self.graph.nodes[m].rule.fusible and self.graph.nodes[m].role == "op" and len(large) > 1:
            return
        for n, read in self.taken[m]:
            if n not in self.residents and self.graph.nodes[n].role in TEMPORARY and self.dies(n, read):
                yield n, read
