"""Work done once: results of pure functions on shared arrays, by identity, and one array for all that are equal.

Equal layers of an unrolled program meet the same arrays in the same order, so that all but the first cost a lookup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .table import Array, Table

ROOM = 1 << 30  # bytes of results to remember before forgetting everything


class Memo:
    """Remembers results. Arguments are arrays, tables or None; whatever is remembered is never written to."""

    def __init__(self) -> None:
        self._known: dict[tuple, tuple[tuple, Any]] = {}
        self._tables: dict[tuple[int, ...], Table] = {}
        self._arrays: dict[tuple, list[Array]] = {}
        self._bytes = 0

    def __call__(self, fun: Callable, *args: Any) -> Any:
        """`fun(*args)`, from memory if it was called with the very same objects before."""
        key = (fun, *map(id, args))
        found = self._known.get(key)
        if found is None:
            if self._bytes > ROOM:
                self._known, self._tables, self._arrays, self._bytes = {}, {}, {}, 0
            found = self._known[key] = (args, self.one(fun(*args)))
        return found[1]

    def one(self, value: Any) -> Any:
        """The one object equal to a value: an array, a table, or a tuple of such; anything else is returned as is."""
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, Table):
            row, col, cost, *held = (self._array(a) for a in (value.row, value.col, value.cost, *value.held))
            key = tuple(map(id, (row, col, cost, *held)))
            return self._tables.setdefault(key, Table(row, col, cost, tuple(held)))
        return tuple(map(self.one, value)) if isinstance(value, tuple) else value

    def _array(self, a: Array) -> Array:
        content = a.tobytes()
        alike = self._arrays.setdefault((a.dtype.char, a.shape, hash(content)), [])
        found = next((known for known in alike if known.tobytes() == content), None)
        if found is None:
            alike.append(a)
            self._bytes += a.nbytes
        return a if found is None else found
