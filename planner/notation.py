"""The paper's notation: `BE_x · E_xF_yz → BF_yz(partialsum-x)`.

Letters stand for dim sizes, one per size all over the program, as `legend` says. B is the size that most matmuls keep
and E the size that most contract; the rest follow by the work of the matmuls they are in.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from planner.graph import Graph, Node
from planner.order import Order, dim_axes
from planner.rules.rule import Dims
from planner.work import is_matmul

LETTERS = "FHQTVKMNPRSUWXYZACDGIJO"
OTHER = "?"


@dataclass(frozen=True)
class Notation:
    """Letters for dim sizes."""

    letters: Mapping[int, str]

    def legend(self) -> str:
        """What each letter stands for."""
        return "  ".join(f"{letter}={size}" for size, letter in sorted(self.letters.items(), key=lambda item: item[1]))

    def array(self, node: Node, dims: Dims, order: Order, partial: Sequence[str] = ()) -> str:
        """One operand or result: a letter per dim, mesh axes as subscript."""
        axes = dim_axes(dims, order)
        text = "".join(
            self.dim([node.rule.sizes[f] for f in dim]) + (f"_{''.join(a)}" if a else "") for dim, a in zip(dims, axes)
        )
        return (text or "1") + (f"(partialsum-{''.join(partial)})" if partial else "")

    def dim(self, sizes: Iterable[int]) -> str:
        """The letters of a dim's factors."""
        return "".join(self.letters.get(size, OTHER) for size in sizes) or "1"

    def operation(self, node: Node, order: Order, partial: Sequence[str]) -> str:
        """Operands joined by `·`, an arrow, the first result if there is one."""
        operands = [self.array(node, dims, order) for dims in node.rule.operands if any(dims)]
        results = [self.array(node, dims, order, partial) for dims in node.rule.results[:1]]
        return f"{' · '.join(operands) or '()'} → {''.join(results) or '()'}"


def notation(graph: Graph) -> Notation:
    """Letters for all dim sizes of a program: those of its matmuls by their work, then all others."""
    kept: Counter[int] = Counter()
    contracted: Counter[int] = Counter()
    work: dict[int, float] = {}
    for node in graph.nodes:
        flops = node.trips * node.rule.flops * prod(map(float, node.rule.sizes)) if is_matmul(node.rule) else 0.0
        for size in (size for size in node.rule.sizes if size > 1):
            work[size] = work.get(size, 0.0) + flops
        if is_matmul(node.rule):
            contracted.update(node.rule.sizes[f] for f in node.rule.reduced)
            kept.update(node.rule.sizes[f] for f in _kept(node.rule.results[0]))
    letters = {size: letter for size, letter in ((_most(contracted), "E"),) if size}
    letters.update({size: letter for size, letter in ((_most(kept, letters), "B"),) if size})
    rest = sorted((size for size in work if size not in letters), key=lambda size: (-work[size], size))
    return Notation({**letters, **dict(zip(rest, LETTERS))})


def _kept(dims: Dims) -> Iterable[int]:
    return (f for dim in dims for f in dim)


def _most(votes: Counter[int], taken: Mapping[int, str] | None = None) -> int:
    free = {size: n for size, n in votes.items() if size > 1 and size not in (taken or {})}
    return max(free, key=lambda size: (free[size], size), default=0)
