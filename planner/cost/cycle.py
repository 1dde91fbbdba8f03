"""A ring through all places of a torus or grid: neighbours in it are near each other, and so are its last and first.

A torus axis that closes is walked as it is. One that is a row is walked there by every other place and back by those
between: no neighbour is more than two hops away, where the way from the row's end to its begin would take them all, and
each wire carries as much. (libtpu 0.0.42 makes permutes of more than two hops on v5e synchronous.) Several axes are
walked like a meadow is mown, row by row and back, around one axis of even length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Array = np.ndarray
Axis = tuple[int, bool]
"""The length of a torus axis, and whether it closes."""


@dataclass(frozen=True)
class Cycle:
    """A ring through a grid.

    Attributes:
        axes: The torus axes; the last is the minor-most in the numbers of places.
    """

    axes: tuple[Axis, ...]

    @property
    def outer(self) -> int:
        """The axis that the ring goes around, best one that is even and closes."""
        long = [a for a, (n, _) in enumerate(self.axes) if n > 1] or [0]
        return min(long, key=lambda a: (self.axes[a][0] % 2, not self.axes[a][1], self.axes[a][0] != 2))

    @property
    def hops(self) -> int:
        """Between the two neighbours that are farthest from each other, or more where all lengths are odd."""
        rest = [axis for a, axis in enumerate(self.axes) if a != self.outer and axis[0] > 1]
        if self.axes[self.outer][0] % 2 == 0:
            return max(self._outer_step, min(1, len(rest)))
        return self._outer_step + sum(map(_reach, rest))

    @property
    def loads(self) -> tuple[int, ...]:
        """For each axis, how many messages its fullest wire carries one way, if each place sends one to each neighbour.

        Or more, where all lengths are odd and there are several.
        """
        back = int(self.axes[self.outer][0] % 2 and sum(n > 1 for n, _ in self.axes) > 1)
        return tuple(back + (self._outer_step if a == self.outer else 1) for a in range(len(self.axes)))

    @property
    def _outer_step(self) -> int:
        return _step(self.axes[self.outer])

    @property
    def order(self) -> tuple[int, ...]:
        """The places round the ring, by their numbers."""
        return _order(self.axes, self.outer)


def _step(axis: Axis) -> int:
    return 1 if axis[1] or axis[0] <= 2 else 2


def _reach(axis: Axis) -> int:
    return axis[0] // 2 if axis[1] else axis[0] - 1


@lru_cache
def _order(axes: tuple[Axis, ...], outer: int) -> tuple[int, ...]:
    lengths = [n for n, _ in axes]
    numbers = np.moveaxis(np.arange(np.prod(lengths)).reshape(lengths), outer, 0)
    return tuple(p for i, o in enumerate(_around(axes[outer])) for p in _there_or_back(numbers[o], i))


def _around(axis: Axis) -> Sequence[int]:
    length, closes = axis
    if closes:
        return range(length)
    there = list(range(0, length, 2))
    return there + [place for place in reversed(range(length)) if place % 2]


def _there_or_back(places: Array, turn: int) -> list[int]:
    """All places, each next to the last; every other turn the other way."""
    if places.ndim == 0:
        return [int(places)]
    found = [place for i, row in enumerate(places) for place in _there_or_back(row, i)]
    return found[::-1] if turn % 2 else found
