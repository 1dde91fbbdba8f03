"""What it takes to get from one layout to another: the collectives of an edge, for all pairs of layouts at once.

Slices first (they shrink what follows), then reduce_scatter, all_to_all, all_reduce, and all_gather last. Going
*to* an open sum is impossible except from the same open sum. Each dim is scattered and gathered by itself, and over
some axes after the others where compilers would not do it at once (`passes.way.parts_of`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.sharding import MeshShape

Array = np.ndarray
REPLICATED = -1


@dataclass(frozen=True, eq=False)
class Move:
    """One collective of each pair of layouts.

    Attributes:
        kind: "reduce_scatter", "all_to_all", "all_reduce" or "all_gather".
        masks: The mesh axes that it spans: int array of shape [p, q]; 0 where it is not needed.
        elements: Those per device that it moves, as `planner.cost.collectives` counts them: shape [p, q].
    """

    kind: str
    masks: Array
    elements: Array


@dataclass(frozen=True, eq=False)
class Reshard:
    """The steps from each of `p` layouts to each of `q` layouts.

    Attributes:
        possible: Boolean array of shape [p, q].
        moves: In the order in which they are made; only those that some pair needs.
        sliced: The mesh axes that come to a dim without a collective, as each device has what it keeps: int array of
            shape [p, q].
    """

    possible: Array
    moves: tuple[Move, ...]
    sliced: Array

    @property
    def moving(self) -> Array:
        """Whether a pair needs any collective: boolean array of shape [p, q]."""
        return np.any([move.masks > 0 for move in self.moves], axis=0) if self.moves else np.zeros_like(self.possible)


def reshard(source: Array, target: Array, elements: float, mesh: MeshShape) -> Reshard:
    """Steps between layouts of an array of `elements`; `source` [p, ndim + 1] and `target` [q, ndim + 1]."""
    ndim = source.shape[1] - 1
    origin, goal = _places(source, mesh), _places(target, mesh)
    a, b = origin[:, None, :], goal[None, :, :]
    split_a, split_b, open_a, open_b = (a >= 0) & (a < ndim), (b >= 0) & (b < ndim), a == ndim, b == ndim
    possible = ~(open_b & ~open_a).any(2)
    exchanged, gathered = split_a & split_b & (a != b), split_a & (b == REPLICATED)
    sliced = (a == REPLICATED) & split_b
    early = sliced & ~_shares_dim(b, a, exchanged | gathered)
    now = _parts(source, elements, mesh)[:, None] / mesh.size[_mask(early)]
    dims = [(np.full(1, True), np.full(1, True))] if mesh.at_once else [(a == d, b == d) for d in range(ndim)]
    wanted = [
        *(("reduce_scatter", part) for _, to in dims for part in _turns("reduce_scatter", open_a & split_b & to, mesh)),
        ("all_to_all", _mask(exchanged)),
        ("all_reduce", _mask(open_a & (b == REPLICATED))),
        *(("all_gather", part) for at, _ in dims for part in _turns("all_gather", gathered & at, mesh)),
    ]
    return Reshard(possible, tuple(_moves(wanted, now, mesh)), _mask(sliced))


def _moves(wanted: list[tuple[str, Array]], now: Array, mesh: MeshShape) -> Iterator[Move]:
    """Each move with what a device holds, before a scatter and after a gather."""
    for kind, masks in wanted:
        if not masks.any():
            continue
        after = now / mesh.size[masks] if kind == "reduce_scatter" else now
        after = now * mesh.size[masks] if kind == "all_gather" else after
        yield Move(kind, masks, np.maximum(now, after))
        now = after


def _turns(kind: str, axes: Array, mesh: MeshShape) -> list[Array]:
    """The masks of the collectives that gather or scatter over a set of axes; gathers begin with the minor ones."""
    parts = mesh.parts[kind][:, _mask(axes)]
    return list(parts[::-1] if kind == "all_gather" else parts)


def _places(layouts: Array, mesh: MeshShape) -> Array:
    """Where each mesh axis is used: the dim it splits, `ndim` when open, REPLICATED: int array [layouts, axes]."""
    bits = 1 << np.arange(len(mesh.sizes))
    used = (layouts[:, None, :] & bits[None, :, None]) > 0
    return np.where(used.any(2), used.argmax(2), REPLICATED)


def _shares_dim(goal: Array, origin: Array, leaving: Array) -> Array:
    """Whether the dim that an axis comes to is one that another axis leaves: then its slice has to wait."""
    axes = range(origin.shape[2])
    return np.stack([((origin == goal[:, :, [i]]) & leaving).any(2) for i in axes], axis=2)


def _mask(axes: Array) -> Array:
    return (axes * (1 << np.arange(axes.shape[2]))).sum(2)


def _parts(source: Array, elements: float, mesh: MeshShape) -> Array:
    """Elements of one device's part."""
    parts = mesh.size[np.bitwise_or.reduce(source[:, :-1], axis=1)] if source.shape[1] > 1 else np.ones(len(source))
    return elements / parts
