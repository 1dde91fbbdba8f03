"""Factors of several operations that turn out to be one: a union-find whose members may also fall into parts.

A dim that one operation sees as `ij` and another as one factor `k` makes `k` fall into `i` and `j`. Where two views
have no common refinement, all that they name is whole.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

Dims = Sequence[Sequence[int]]


@dataclass
class Factors:
    """Factors by number, of which some have become others.

    Attributes:
        sizes: Size of each factor.
        parts: For factors that fell into others (or became another), these, major to minor.
        blocked: Factors that must be whole, whatever they have become.
    """

    sizes: list[int] = field(default_factory=list)
    parts: dict[int, tuple[int, ...]] = field(default_factory=dict)
    blocked: set[int] = field(default_factory=set)

    def fresh(self, size: int, blocked: bool = False) -> int:
        """A new factor."""
        self.sizes.append(size)
        if blocked:
            self.blocked.add(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def leaves(self, factors: Iterable[int]) -> list[int]:
        """What the factors have become, without those of size 1."""
        found: list[int] = []
        for f in factors:
            found += self.leaves(self.parts[f]) if f in self.parts else [f] * (self.sizes[f] != 1)
        return found

    def points(self, dims: Dims) -> int:
        """Number of elements of a value."""
        return prod(self.sizes[f] for dim in dims for f in dim)

    def block(self, factors: Iterable[int]) -> None:
        """These must be whole."""
        self.blocked.update(factors)

    def whole(self) -> set[int]:
        """Leaves of all that is blocked."""
        return set(self.leaves(sorted(self.blocked)))

    def meet(self, one: Iterable[int], other: Iterable[int]) -> None:
        """Two views of one dim."""
        a, b = self.leaves(one), self.leaves(other)
        if [self.sizes[f] for f in a] == [self.sizes[f] for f in b]:
            for f, g in zip(a, b):
                self._becomes(f, [g])
        elif len(a) == 1 and self._is(a[0], b):
            self._becomes(a[0], b)
        elif len(b) == 1 and self._is(b[0], a):
            self._becomes(b[0], a)
        else:
            self.block([*a, *b])

    def repeated(self, dims: Dims) -> list[int]:
        """Leaves that a value names more than once: no split of them is one of the value."""
        counts = Counter(f for dim in dims for f in self.leaves(dim))
        return [f for f, n in counts.items() if n > 1]

    def _is(self, factor: int, parts: Sequence[int]) -> bool:
        return self.sizes[factor] == prod(self.sizes[f] for f in parts)

    def _becomes(self, factor: int, parts: Sequence[int]) -> None:
        if [factor] != list(parts):
            self.parts[factor] = tuple(parts)
