"""Seconds of a permute whose senders and receivers are known: each message walks the torus, and wires are shared.

The cost model prices a permute as if its messages could go anywhere. A compiled one says where: the neighbour in a ring
is one hop away over a wire of its own. Messages go along one torus axis after the other, the shorter way around where
the axis closes; the fullest wire decides.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.hardware import Machine
from planner.cost.torus import places_of

Array = np.ndarray
Wire = tuple[tuple[int, ...], int, int]


@dataclass(frozen=True, eq=False)
class Wires:
    """The torus that a mesh lies on.

    Attributes:
        places: Torus coordinates of each device: [devices, axes].
        lengths: Of each torus axis.
        closed: Whether each torus axis closes into a ring.
        link: Bytes/s of a wire, one direction.
        hop: Seconds per hop.
        overhead: Seconds of any collective beside its bytes and hops.
    """

    places: Array
    lengths: tuple[int, ...]
    closed: tuple[bool, ...]
    link: float
    hop: float
    overhead: float

    def permute(self, pairs: Array, nbytes: float) -> float:
        """Seconds until every receiver holds the `nbytes` of its sender."""
        walks = [list(self.walk(tuple(self.places[a]), tuple(self.places[b]))) for a, b in pairs.tolist()]
        hops = max(map(len, walks), default=0)
        loads = Counter(wire for walk in walks for wire in walk)
        return nbytes * max(loads.values(), default=0) / self.link + hops * self.hop + self.overhead

    def taken(self, pairs: Array) -> frozenset[Wire]:
        """The wires that the messages of a permute take; the other direction of a wire is another wire."""
        places = [(tuple(self.places[a]), tuple(self.places[b])) for a, b in pairs.tolist()]
        return frozenset(wire for pair in places for wire in self.walk(*pair))

    def along(self, groups: Array) -> frozenset[Wire]:
        """All wires of the torus axes along which members of a group differ."""
        places = self.places[groups]
        axes = np.flatnonzero((places != places[:, :1]).any((0, 1))).tolist()
        return frozenset((tuple(place), axis, way) for place in self.places for axis in axes for way in (1, -1))

    def walk(self, start: tuple[int, ...], stop: tuple[int, ...]) -> Iterator[Wire]:
        """The wires from place to place: where each begins, its torus axis and direction."""
        here = list(start)
        for axis, length in enumerate(self.lengths):
            way = stop[axis] - here[axis]
            if self.closed[axis] and abs(way) > length / 2:
                way -= length if way > 0 else -length
            step = 1 if way > 0 else -1
            for _ in range(abs(way)):
                yield tuple(here), axis, step
                here[axis] = (here[axis] + step) % length


def wires_of(mesh: Any, machine: Machine) -> Wires | None:
    """The wires of a mesh within one slice of a torus; None where its devices have no coordinates or are several."""
    places, fabric = places_of(mesh), machine.fabric
    slices = {getattr(d, "slice_index", 0) for d in mesh.devices.flat} if places is not None else set()
    if places is None or not fabric.torus or len(slices) > 1:
        return None
    flat = places.reshape(-1, places.shape[-1])
    flat = flat - flat.min(0)
    lengths = tuple(int(n) for n in flat.max(0) + 1)
    whole = not fabric.cubes or all(n % (fabric.wraps or 1) == 0 for n in lengths[: fabric.torus])
    closed = tuple(whole and fabric.wraps > 0 and n % fabric.wraps == 0 for n in lengths)
    return Wires(flat, lengths, closed, fabric.link, fabric.hop, machine.chip.overhead)
