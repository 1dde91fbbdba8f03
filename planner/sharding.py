"""Specs as numbers: which mesh axes split each dim, one bit per mesh axis.

Inside the planner a **layout** is a row of `ndim + 1` bit masks: for every dim the set of mesh axes that split it,
and last the set of axes over which the value is still an *open* sum (each device holds a summand). Thousands of them
are then one integer array. The order of several axes within one dim is no part of a layout; `order.py` settles it
afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from math import prod

import numpy as np
from jax.sharding import PartitionSpec

from passes.way import Torus, parts_of
from planner.cost.cycle import Cycle

Array = np.ndarray


@dataclass(frozen=True)
class MeshShape:
    """Names and sizes of a mesh's axes; bit `i` of a mask stands for axis `i`.

    Attributes:
        walks: For each axis the torus axes that it walks: their numbers, its devices along them, whether they close.
            Empty where there is no torus.
        in_planes: Whether gathers and scatters go over a plane of the torus at most.
        at_once: Whether a value is gathered, or scattered, along all of its dims by one collective.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    walks: tuple[tuple[tuple[int, int, bool], ...], ...] = ()
    in_planes: bool = False
    at_once: bool = False

    @cached_property
    def size(self) -> Array:
        """Number of devices along a set of axes, indexed by mask: int array of shape [2^axes]."""
        masks = range(1 << len(self.sizes))
        return np.array([np.prod([s for i, s in enumerate(self.sizes) if m >> i & 1], dtype=np.int64) for m in masks])

    @cached_property
    def parts(self) -> Mapping[str, Array]:
        """The sets of axes that one gather or scatter over a set goes over in turn: int arrays [parts, 2^axes].

        As `passes.way.parts_of` has them, with the axes in mesh order; a set that takes fewer parts has zeros in front.
        """
        return {kind: self._parts(kind) for kind in ("reduce_scatter", "all_gather")}

    def _parts(self, kind: str) -> Array:
        found = [parts_of(kind, self.axes(m), self.torus) for m in range(1 << len(self.sizes))]
        most = max(map(len, found))
        masks = [[0] * (most - len(parts)) + [self.mask(axes) for axes in parts] for parts in found]
        return np.array(masks).T

    @property
    def torus(self) -> Torus:
        """What each axis walks, where gathers and scatters go in planes."""
        walks = self.walks if self.in_planes else ()
        return {name: tuple((number, n) for number, n, _ in walk) for name, walk in zip(self.names, walks)}

    def ring(self, axes: Sequence[str]) -> tuple[int, ...]:
        """The devices along some axes, major to minor, as they stand round a ring; empty for in that order."""
        walks = {name: tuple((n, closes) for _, n, closes in walk) for name, walk in zip(self.names, self.walks)}
        sizes = dict(zip(self.names, self.sizes))
        if any(prod(n for n, _ in walks.get(axis, ())) != sizes[axis] for axis in axes):
            return ()
        order = Cycle(tuple(place for axis in axes for place in walks[axis])).order
        return () if order == tuple(sorted(order)) else order

    @property
    def splitting(self) -> int:
        """The set of axes with more than one device."""
        return sum(1 << i for i, size in enumerate(self.sizes) if size > 1)

    def mask(self, names: Iterable[str]) -> int:
        """The set of axes as a mask. Raises ValueError for a name that the mesh does not have."""
        return sum(1 << self.names.index(name) for name in names)

    def axes(self, mask: int) -> tuple[str, ...]:
        """The names in a mask, in mesh order."""
        return tuple(name for i, name in enumerate(self.names) if mask >> i & 1)

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in zip(self.names, self.sizes))


def canonical(spec: PartitionSpec | None, ndim: int) -> PartitionSpec:
    """The one way to write a spec of an array of `ndim` dims: no trailing None, no one-tuples, no empty tuples."""
    entries = [] if spec is None else [_entry(e) for e in spec]
    if len(entries) > ndim:
        raise ValueError(f"{spec} names {len(entries)} dims, the array has {ndim}")
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _entry(entry: object) -> object:
    if not isinstance(entry, tuple):
        return entry
    return None if not entry else entry[0] if len(entry) == 1 else entry


def names_of(entry: object) -> tuple[str, ...]:
    """Mesh axes of one entry of a spec, major to minor."""
    if entry is None or entry is PartitionSpec.UNCONSTRAINED:
        return ()
    return tuple(entry) if isinstance(entry, tuple) else (str(entry),)


def to_spec(dims: Sequence[Sequence[str]]) -> PartitionSpec:
    """A canonical spec from the mesh axes of each dim, major to minor."""
    return canonical(PartitionSpec(*(tuple(axes) for axes in dims)), len(dims))


def shard_elements(shape: Sequence[int], layouts: Array, mesh: MeshShape) -> Array:
    """Local sizes of each dim under each layout: float array of shape [layouts, ndim]."""
    return np.asarray(shape, float)[None, :] / mesh.size[layouts[:, : len(shape)]]


def padded(local: Array, tile: tuple[int, int], at_border: bool, packed: int = 1) -> Array:
    """Elements of a tiled buffer, of local sizes [layouts, ndim]; shape [layouts].

    A tile has fewer rows where fewer fill it: a power of two, and as many as are `packed` in one word.

    TPU buffers are tiled over two dims. Where nothing else decides, at the border of a program, these are the two that
    pad least (see `passes.layout`). Of temporaries, here, the last and the largest other one.
    """
    if local.shape[1] == 0:
        return np.ones(len(local))
    if local.shape[1] == 1:
        return _up(local[:, 0], tile[1])
    if at_border:
        pairs = permutations(range(local.shape[1]), 2)
        return local.prod(1) * np.min([_waste(local[:, a], local[:, b], tile, packed) for a, b in pairs], 0)
    rest = local[:, :-1]
    return local.prod(1) * _waste(rest[np.arange(len(rest)), rest.argmax(1)], local[:, -1], tile, packed)


def _waste(rows: Array, columns: Array, tile: tuple[int, int], packed: int) -> Array:
    """How many times more than its elements a tiled plane takes."""
    fitting = np.clip(2 ** np.ceil(np.log2(np.maximum(rows, 1))), min(packed, tile[0]), tile[0])
    return _up(rows, fitting) * _up(columns, tile[1]) / np.maximum(rows * columns, 1)


def _up(sizes: Array, multiple: Array | int) -> Array:
    return np.ceil(sizes / multiple) * multiple
