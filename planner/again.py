"""What has to be read again, as a reduction's result is known only when all of it has been read.

    m = mean(x);  v = mean((x - m)²);  y = (x - m) / sqrt(v)

A compiler computes everything between on the fly, and still reads `x` three times: for `m`, for `v`, for `y`. The first
time may be where an operation writes `x`; what a loop carries or an argument brings has been written before.
"""

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from planner.graph import Edge, Graph, Port

Operand = tuple[int, int]


def again(graph: Graph, stored: AbstractSet[Port], beside: AbstractSet[int]) -> Mapping[Operand, int]:
    """Operands that are computed on the fly from what has to be read again, with the bytes of an element read.

    Args:
        graph: The program.
        stored: Ports whose value lies in HBM.
        beside: Nodes that read a value where it is written.
    """
    return dict(_Again(graph, stored, beside).operands())


@dataclass
class _Again:
    graph: Graph
    stored: AbstractSet[Port]
    beside: AbstractSet[int]
    into: dict[int, list[Edge]] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)

    def operands(self) -> Iterator[tuple[Operand, int]]:
        for edge in self.graph.edges:
            self.into.setdefault(edge.target, []).append(edge)
        for n, node in sorted(enumerate(self.graph.nodes), key=lambda pair: pair[1].time):
            if self.fused(n) and n not in self.beside and (node.rule.reduced or Port(n) in self.stored):
                yield from self.root(n)

    def root(self, n: int) -> Iterator[tuple[Operand, int]]:
        """A reduction or a stored value: the operand that it reads anew."""
        mine, sums = self.chain(n)
        shared = {s: mine & self.chain(s)[0] for s in sums}
        self.ranks[n] = max((1 + self.ranks.get(s, 0) for s, both in shared.items() if both), default=0)
        found = [e for both in shared.values() for m in both for e in self.into.get(m, ()) if e.source in self.stored]
        if not found or not self.ranks[n]:
            return
        source = max((e.source for e in found), key=lambda port: self.graph.aval(port).elements)
        if self.ranks[n] > (self.graph.nodes[source.node].role == "op"):
            widest = max(self.into[n], key=lambda e: self.graph.aval(e.source).elements)
            if widest.source not in self.stored:
                yield (n, widest.operand), self.graph.aval(source).itemsize

    def chain(self, n: int) -> tuple[set[int], set[int]]:
        """What a node is computed from on the fly: wide values, and the reductions behind which it stands."""
        wide: set[int] = set()
        sums: set[int] = set()
        todo: Sequence[int] = [n]
        while todo:
            fresh = {e.source.node for m in todo for e in self.into.get(m, ()) if e.source not in self.stored}
            fresh = {m for m in fresh if self.fused(m)} - wide - sums
            sums |= {m for m in fresh if self.graph.nodes[m].rule.reduced}
            wide |= fresh - sums
            todo = [m for m in fresh if m not in sums]
        return wide, sums

    def fused(self, n: int) -> bool:
        node = self.graph.nodes[n]
        return node.role == "op" and node.rule.fusible and len(node.avals) == 1
