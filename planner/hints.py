"""What the user knows of a program that its text does not say: trips of while loops, weights of branches.

A hint names a loop or a branch by any part of its source line, such as `"decode.py:31"` or `"generate"`, the function
that it stands in.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.errors import HintError

Weights = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Hints:
    """Hints, and which of them were of use.

    Attributes:
        trips: How often while loops run.
        weights: For each branch of a `cond` or `switch`, how often it is taken, of one call.
    """

    trips: Mapping[str, float] = field(default_factory=dict)
    weights: Weights = field(default_factory=dict)
    used: set[str] = field(default_factory=set, compare=False)

    def trips_at(self, source: str) -> float | None:
        """How often the while loop at a source line runs, if the user says so."""
        return self._at(self.trips, source)

    def weights_at(self, source: str, branches: int) -> Sequence[float] | None:
        """How often each branch at a source line is taken, if the user says so."""
        given = self._at(self.weights, source)
        if given is not None and len(given) != branches:
            raise HintError(f"weights give {len(given)} numbers for the {branches} branches at {source}: give one each")
        return given

    def _at(self, hints: Mapping[str, Any], source: str) -> Any:
        found = [key for key in hints if key in source]
        if len(found) > 1:
            raise HintError(f"{found[0]!r} and {found[1]!r} both name {source}: keep one of the hints")
        self.used.update(found)
        return hints[found[0]] if found else None

    def check(self, sources: Iterable[str]) -> None:
        """Raises HintError for a hint that names no loop and no branch."""
        unused = sorted({*self.trips, *self.weights} - self.used)
        if unused:
            known = ", ".join(sorted(set(sources))) or "none"
            raise HintError(f"{unused[0]!r} names no while loop and no branch of this program; there are: {known}")


def hints_of(trips: Mapping[str, float] | None, weights: Weights | None) -> Hints:
    """Checked hints. Raises HintError where a number is negative or all weights are zero."""
    for key, n in (trips or {}).items():
        if not n >= 0:
            raise HintError(f"trips of {key!r} are {n}: give a number that is not negative")
    for key, numbers in (weights or {}).items():
        if not all(n >= 0 for n in numbers) or not any(numbers):
            raise HintError(f"weights of {key!r} are {list(numbers)}: give numbers that are not negative, one above 0")
    return Hints(dict(trips or {}), dict(weights or {}))
