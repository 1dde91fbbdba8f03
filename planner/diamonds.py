"""What is stored because a reduction and a matmul both need it, as the exponentials of a softmax are.

    e = exp(x);  s = sum(e);  p = e / s;  y = p @ v

A compiler computes cheap values twice, and dear ones too where it reads `x` again to write something else. Into a
matmul it does not fuse what is dear: it writes `e` while it sums it up; the matmul reads `e` and divides on the fly. So
`e` is stored, in its own dtype, and `p` is not (libtpu 0.0.42, v4 and v5e, float32 and bfloat16).
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from planner.graph import Edge, Graph, Node, Port
from planner.work import is_matmul

DEAR = 10.0  # FLOPs for an element, as those of exp
Readers = Mapping[Port, Sequence[Edge]]


@dataclass(frozen=True)
class Diamonds:
    """All of a graph.

    Attributes:
        stored: The dear values.
        read: Nodes that a matmul computes from them while it reads.
        beside: Nodes that read them where they are written.
    """

    stored: frozenset[int] = field(default_factory=frozenset)
    read: frozenset[int] = field(default_factory=frozenset)
    beside: frozenset[int] = field(default_factory=frozenset)

    def __or__(self, other: "Diamonds") -> "Diamonds":
        return Diamonds(self.stored | other.stored, self.read | other.read, self.beside | other.beside)


def diamonds(graph: Graph, stored: AbstractSet[Port], readers: Readers) -> Diamonds:
    """The diamonds between what is stored otherwise."""
    found = Diamonds()
    for n, node in enumerate(graph.nodes):
        if _fused(node) and node.rule.flops >= DEAR and Port(n) not in stored:
            found |= _Chain(graph, stored, readers).diamond(n)
    return found


def _fused(node: Node) -> bool:
    return node.role == "op" and node.rule.fusible and len(node.avals) == 1


@dataclass(frozen=True)
class _Chain:
    graph: Graph
    stored: AbstractSet[Port]
    readers: Readers

    def diamond(self, n: int) -> Diamonds:
        """What follows from one dear value."""
        alike, size = self.behind([n]), self.graph.nodes[n].avals[0].elements
        sums = [t for m in {n} | alike for t in self.targets(m) if self.sums_up(t)]
        both = alike & self.behind(sums, size)
        ends = {m for m in both if Port(m) in self.stored and self.into_matmul(m)}
        if not ends:
            return Diamonds()
        beside = {t for t in self.targets(n) if not ({t} | self.behind([t])) & both or self.sums_up(t)}
        return Diamonds(frozenset({n}), frozenset(self.on_the_fly(both, ends)), frozenset(beside))

    def on_the_fly(self, both: AbstractSet[int], ends: AbstractSet[int]) -> set[int]:
        """The ends, and what only they are computed from."""
        found = set(ends)
        for m in sorted(both - ends, key=lambda m: -self.graph.nodes[m].time):
            if found.issuperset(self.targets(m)):
                found.add(m)
        return found

    def behind(self, starts: Sequence[int], size: float = 0.0) -> set[int]:
        """What is computed on the fly from some nodes, and what is stored of that.

        With a size also what is behind sums, and what is stored of fewer elements.
        """
        found: set[int] = set()
        todo = list(starts)
        while todo:
            fresh = {t for t in self.targets(todo.pop()) if _fused(self.graph.nodes[t])} - found
            fresh = {t for t in fresh if size or not self.sums_up(t)}
            found |= fresh
            todo += [t for t in fresh if Port(t) not in self.stored or self.graph.nodes[t].avals[0].elements < size]
        return found

    def sums_up(self, n: int) -> bool:
        return _fused(self.graph.nodes[n]) and bool(self.graph.nodes[n].rule.reduced)

    def into_matmul(self, n: int) -> bool:
        """Whether a matmul reads a node's result, and nothing else does."""
        nodes = [self.graph.nodes[t] for t in self.targets(n)]
        return len(nodes) == 1 and nodes[0].role == "op" and is_matmul(nodes[0].rule)

    def targets(self, n: int) -> Sequence[int]:
        return [e.target for e in self.readers.get(Port(n), ())]
