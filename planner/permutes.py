"""The collectives that the order of axes makes necessary: which axes of a dim change places, and what that takes.

Thousands of ways from one place to another are the same but for the names of axes, for the dims that stay as they are,
and for which other dims the rest goes to. One of each kind is walked as `passes.way` walks it; the others are looked
up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from passes.way import Shard, steps
from planner.cost.model import CostModel
from planner.sharding import MeshShape

Array = np.ndarray
GROWTH = {"slice": 1, "reduce_scatter": 1, "all_gather": -1, "all_to_all": 0, "all_reduce": 0, "permute": 0}
"""Whether a move leaves each device a part of what it had, or as many times more."""


@dataclass(frozen=True)
class Permute:
    """A dim of an edge whose axes must change places: seconds are for one trip, `mask` are the axes."""

    mask: int
    nbytes: float
    seconds: float


@lru_cache(maxsize=1 << 16)
def moves(have: Shard, want: Shard, mesh: MeshShape) -> tuple[tuple[str, tuple[str, ...], float], ...]:
    """The collectives on the way: kind, axes, and in how many parts the value is where a device holds most of it."""
    if want.open - have.open:
        return ()
    parts = float(mesh.size[mesh.mask({axis for axes in have.dims for axis in axes})])
    found = []
    for step in steps(have, want, mesh.torus):
        before, parts = parts, parts * float(mesh.size[mesh.mask(step.axes)]) ** GROWTH[step.kind]
        if step.kind != "slice":
            found.append((step.kind, step.axes, min(before, parts)))
    return tuple(found)


class Permutes:
    """What permutes cost on a mesh."""

    def __init__(self, mesh: MeshShape, model: CostModel):
        self.mesh, self.model = mesh, model
        self._kinds: dict[bytes, Array] = {}

    def between(self, have: Shard, want: Shard, nbytes: float) -> tuple[Permute, ...]:
        """Those that a value of so many bytes needs on the way from one place to another."""
        found = [(mask, nbytes / float(self.mesh.size[held])) for mask, held in _permuted(have, want, self.mesh)]
        return tuple(Permute(mask, part, float(self._seconds(part, mask))) for mask, part in found)

    def table(self, have: Sequence[Shard], want: Sequence[Shard], nbytes: float) -> Array:
        """The seconds of all of them, from each of some places to each of some others."""
        cost, (a, b) = np.zeros((len(have), len(want))), (_places(shards, self.mesh) for shards in (have, want))
        i, j = np.nonzero(_may_permute(a, b))
        if len(i):
            codes = _codes(a[i], b[j])
            turn = codes.argsort(axis=1, kind="stable")
            bits = self._bits(np.take_along_axis(codes, turn, 1), turn, lambda way: (have[i[way]], want[j[way]]))
            masks = (bits << turn[:, None, None, :]).sum(3)
            cost[i, j] = self._seconds(nbytes / self.mesh.size[masks[..., 1]], masks[..., 0]).sum(1)
        return cost

    def _bits(self, keys: Array, turn: Array, ends: Callable[[int], tuple[Shard, Shard]]) -> Array:
        """The permutes of each way, its axes numbered in turn: the bits of both masks, [ways, permutes, 2, axes]."""
        _, first, kind = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        found = [self._kind(keys[way], turn[way], *ends(way)) for way in first.tolist()]
        bits = np.zeros((len(found), max(map(len, found)), 2, keys.shape[1]), int)
        for at, some in zip(bits, found):
            at[: len(some)] = some
        return bits[kind.reshape(-1)]

    def _kind(self, code: Array, turn: Array, have: Shard, want: Shard) -> Array:
        key = code.tobytes()
        if key not in self._kinds:
            masks = np.array(_permuted(have, want, self.mesh), int).reshape(-1, 2, 1)
            self._kinds[key] = masks >> turn & 1
        return self._kinds[key]

    def _seconds(self, nbytes: Array | float, mask: Array | int) -> Array:
        return self.model.collective("permute", np.asarray(nbytes), np.asarray(mask))


@lru_cache(maxsize=1 << 14)
def _permuted(have: Shard, want: Shard, mesh: MeshShape) -> tuple[tuple[int, int], ...]:
    """The axes of each permute on the way, and those that split the value meanwhile, as masks."""
    if want.open - have.open:
        return ()
    found, split = [], {axis for axes in have.dims for axis in axes}
    for step in steps(have, want):
        if GROWTH[step.kind] > 0:
            split.update(step.axes)
        if GROWTH[step.kind] < 0:
            split.difference_update(step.axes)
        if step.kind == "permute":
            found.append((mesh.mask(step.axes), mesh.mask(split)))
    return tuple(found)


@dataclass(frozen=True)
class _Places:
    """Where axes are in some shards.

    Attributes:
        lines: For each dim, a number that tells which axes split it, in which order: shape [shards, dims].
        masks: Likewise, which ones.
        dim: For each axis, the dim that it splits, or -1: shape [shards, axes].
        rank: How many axes of that dim are more major.
        open: Whether parts over it are still to be combined.
    """

    lines: Array
    masks: Array
    dim: Array
    rank: Array
    open: Array

    def __getitem__(self, some: Array) -> "_Places":
        return _Places(self.lines[some], self.masks[some], self.dim[some], self.rank[some], self.open[some])


def _places(shards: Sequence[Shard], mesh: MeshShape) -> _Places:
    axes, number = len(mesh.names), {name: i for i, name in enumerate(mesh.names)}
    dim, rank = np.full((2, len(shards), axes), -1)
    open_ = np.array([[name in shard.open for name in mesh.names] for shard in shards])
    for s, shard in enumerate(shards):
        for d, names in enumerate(shard.dims):
            for r, name in enumerate(names):
                dim[s, number[name]], rank[s, number[name]] = d, r
    at = dim[:, None, :] == np.arange(len(shards[0].dims))[:, None]
    lines = (at * (np.arange(axes) + 1) * (axes + 1) ** rank.clip(0)[:, None]).sum(2)
    return _Places(lines, (at << np.arange(axes)).sum(2), dim, rank, open_)


def _may_permute(a: _Places, b: _Places) -> Array:
    """Whether several axes meet in a dim that does not stay as it is: bools [a, b]."""
    met = a.masks[:, None] | b.masks[None]
    changed = (a.lines[:, None] != b.lines[None]) & (met & met - 1 > 0)
    return changed.any(2) & ~(b.open[None] & ~a.open[:, None]).any(2)


def _codes(a: _Places, b: _Places) -> Array:
    """For each way from `a` to `b` and each axis, whence it comes and where it goes among the dims that change.

    But for the names of axes, ways are the same whose codes are the same in ascending order.
    """
    changed = a.lines != b.lines
    number = np.pad(changed.cumsum(1) * changed, ((0, 0), (0, 1)))  # the last one is of no dim
    axes = a.dim.shape[1]
    here, there = (np.where((n := np.take_along_axis(number, x.dim, 1)) > 0, n * axes + x.rank, 0) for x in (a, b))
    opened, stays = a.open & ~b.open & (there > 0), (a.dim >= 0) & (here == 0)
    most = (2 * axes + 1) * axes
    return np.select([opened, stays], [most, most + 1], here) * (most + 2) + there
