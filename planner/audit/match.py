"""Pairs the collectives of a compiled program with those of a plan.

A compiled collective is what was planned when kind, mesh axes, trips and bytes agree; of several the one on the same
source line. A planned ring is what sends its chunks: a permute for each but a device's own. Compilers also do the same
in other words, and that is no surprise: several small collectives in one, a gather or a scatter over some axes after
others, an all_reduce in its two halves, an exchange over parts of its axes. What stands in for something cheaper (an
all_reduce for a reduce_scatter or an all_gather) is a surprise, and so is whatever no plan asked for.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from planner.audit.record import Move, Surprise

CLOSE = 0.1
HALVES = ("reduce_scatter", "all_gather")

Test = Callable[[Move, Move], bool]


@dataclass(frozen=True)
class Matches:
    """Planned and compiled; compiled but not planned; planned but not compiled."""

    pairs: tuple[tuple[Move, tuple[Move, ...]], ...]
    surprises: tuple[Surprise, ...]
    missing: tuple[Move, ...]


def matched(planned: Sequence[Move], compiled: Sequence[Move], scatters: bool = True) -> Matches:
    """Every move of both sides, in one of three lists.

    A compiler that never `scatters` (that of the CPU) writes an all_reduce and a slice: there that is no surprise.
    """
    moving = [m for m in planned if m.volume]
    pool = _Pool([m for m in moving if not m.chunks], [m for m in compiled if m.volume])
    absent = pool.without_rings([m for m in moving if m.chunks])
    for test in (_same(line=True), _same(line=False)):
        pool.one_by_one(test)
    pool.parts()
    pool.halves()
    pool.several_in_one()
    stand_ins = [s for s in pool.substitutes() if scatters or s.instead_of != "reduce_scatter"]
    surprises = [*stand_ins, *(Surprise(move=m, cause=cause_of(m)) for m in pool.compiled)]
    return Matches(tuple(pool.pairs), tuple(surprises), (*absent, *pool.planned))


def _same(line: bool) -> Test:
    def test(p: Move, c: Move) -> bool:
        return _alike(p, c) and p.kind == c.kind and p.axes == c.axes and (p.source == c.source or not line)

    return test


def _as_large(p: Move, q: Move) -> bool:
    return (p.axes, p.trips, p.nbytes, p.chunks) == (q.axes, q.trips, q.nbytes, q.chunks)


def _alike(p: Move, c: Move) -> bool:
    """As often, and as many bytes; or half of them, where a compiler rounds for the matmul that reads them."""
    return p.trips == c.trips and any(abs(share * p.nbytes - c.nbytes) <= CLOSE * p.nbytes for share in (1.0, 0.5))


@dataclass
class _Pool:
    """What is still unmatched on both sides."""

    planned: list[Move]
    compiled: list[Move]
    pairs: list[tuple[Move, tuple[Move, ...]]] = field(default_factory=list)

    def take(self, p: Move, found: Sequence[Move]) -> None:
        self.planned = [m for m in self.planned if m is not p]
        self.compiled = [m for m in self.compiled if not any(m is c for c in found)]
        self.pairs.append((p, tuple(found)))

    def one_by_one(self, test: Test) -> None:
        for p in list(self.planned):
            if found := next((c for c in self.compiled if test(p, c)), None):
                self.take(p, [found])

    def without_rings(self, rings: Sequence[Move]) -> list[Move]:
        """Takes rings with their permutes, those on their own line first; the rings that remain.

        Two matmuls that gather one value each send it around; a compiler sends equal chunks once.
        """
        for line in (True, False):
            rings = [p for p in rings if not self.ring(p, line)]
        return [p for p in rings if not self.shared(p)]

    def shared(self, p: Move) -> bool:
        """Takes the permutes of a like gather that has them already."""
        like = (found for q, found in self.pairs if q.chunks and p.kind == q.kind == "all_gather" and _as_large(p, q))
        found = next(like, ())
        self.pairs.extend([(p, found)] if found else [])
        return bool(found)

    def ring(self, p: Move, line: bool) -> bool:
        """Takes the permutes that send all chunks of a ring, if there are as many."""
        chunk = p.model_copy(update={"kind": "permute", "nbytes": p.nbytes / p.chunks})
        found = [c for c in self.compiled if _same(line)(chunk, c)][: p.chunks - 1]
        if len(found) == p.chunks - 1:
            self.take(p, found)
        return len(found) == p.chunks - 1

    def parts(self) -> None:
        """Over some axes after others, the rest of the axes on fewer bytes."""
        for p in list(self.planned):
            if found := self.cover(p):
                self.take(p, found)

    def cover(self, p: Move) -> list[Move]:
        left, found = set(p.axes), []
        fits = [c for c in self.compiled if c.kind == p.kind and c.trips == p.trips and c.nbytes <= 1.1 * p.nbytes]
        for c in sorted(fits, key=lambda c: (c.source != p.source, -c.nbytes)):
            if c.axes and left.issuperset(c.axes):
                found.append(c)
                left -= set(c.axes)
        return [] if left or not any(_alike(p, c) for c in found) else found

    def halves(self) -> None:
        """An all_reduce as a scatter and a gather."""
        for p in [p for p in self.planned if p.kind == "all_reduce"]:
            found = [next((c for c in self.compiled if _half(p, c, kind)), None) for kind in HALVES]
            if all(found):
                self.take(p, [c for c in found if c])

    def several_in_one(self) -> None:
        """One compiled collective for several planned ones."""
        for c in list(self.compiled):
            room, found = 1.1 * c.nbytes, []
            for p in self.planned:
                if (p.kind, p.axes, p.trips) == (c.kind, c.axes, c.trips) and p.nbytes <= room:
                    found.append(p)
                    room -= p.nbytes
            if found and room <= 0.2 * c.nbytes:
                for p in found:
                    self.take(p, [c])

    def substitutes(self) -> Iterator[Surprise]:
        """All_reduces that stand for something cheaper."""
        for p in [p for p in self.planned if p.kind in HALVES]:
            stands_in = (c for c in self.compiled if c.kind == "all_reduce" and c.axes == p.axes and _alike(p, c))
            if (found := next(stands_in, None)) is not None:
                self.take(p, [found])
                yield Surprise(move=found, instead_of=p.kind, cause=f"all_reduce in place of {p.kind}")


def _half(p: Move, c: Move, kind: str) -> bool:
    return c.kind == kind and c.axes == p.axes and _alike(p, c)


def cause_of(move: Move) -> str:
    """A guess at why the compiler made a collective that nobody planned."""
    if move.by_update:
        return "an all_gather written as an all_reduce of a slice in zeros"
    if move.argument:
        return f"gathers the argument {move.argument}" if move.kind == "all_gather" else f"moves {move.argument}"
    if move.scope.endswith("sharding_constraint"):
        return {
            "all_gather": "a constraint met through replication (full rematerialization)",
            "permute": "a constraint wants the shards in another order",
        }.get(move.kind, "a constraint met in another way than planned")
    if move.kind == "all_reduce":
        return "a sum over split dims, closed where it is made"
    return "propagation chose another layout than its neighbour"
