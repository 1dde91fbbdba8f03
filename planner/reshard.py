"""What it takes to get from one layout to another: the collectives of an edge, for all pairs of layouts at once.

Slices first (they shrink what follows), then reduce_scatter, all_to_all, all_reduce, and all_gather last. Going
*to* an open sum is impossible except from the same open sum. Each dim is scattered and gathered by itself, and over
some axes after the others where compilers would not do it at once (`passes.way.parts_of`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from planner.sharding import MeshShape

Array = np.ndarray


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
        early: Elements per device that are left of a slice in front of the collectives, 0 without: shape [p, q].
    """

    possible: Array
    moves: tuple[Move, ...]
    sliced: Array
    early: Array

    @property
    def moving(self) -> Array:
        """Whether a pair needs any collective: boolean array of shape [p, q]."""
        return np.any([move.masks > 0 for move in self.moves], axis=0) if self.moves else np.zeros_like(self.possible)


def reshard(source: Array, target: Array, elements: float, mesh: MeshShape) -> Reshard:
    """Steps between layouts of an array of `elements`; `source` [p, ndim + 1] and `target` [q, ndim + 1]."""
    *here, open_a = np.moveaxis(source[:, None], 2, 0)
    *there, open_b = np.moveaxis(target[None], 2, 0)
    had, comes = _union(here, 0 * open_a), _union(there, 0 * open_b)
    both, lost = had & comes, ~(comes | open_b)
    exchanged, gathered = both & ~_union([a & b for a, b in zip(here, there)], 0 * both), had & lost
    sliced = comes & ~(had | open_a)
    leaving = exchanged | gathered
    early = _union([np.where(a & leaving, 0, sliced & b) for a, b in zip(here, there)], 0 * both)
    now = _parts(source, elements, mesh)[:, None] / mesh.size[early]
    dims = [(had, comes)] if mesh.at_once else list(zip(here, there))
    wanted = [
        *(("reduce_scatter", part) for _, b in dims for part in _turns("reduce_scatter", open_a & b, mesh)),
        ("all_to_all", exchanged),
        ("all_reduce", open_a & lost),
        *(("all_gather", part) for a, _ in dims for part in _turns("all_gather", a & gathered, mesh)),
    ]
    return Reshard((open_b & ~open_a) == 0, tuple(_moves(wanted, now, mesh)), sliced, np.where(early > 0, now, 0.0))


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
    if not axes.any():
        return []
    parts = mesh.parts[kind]
    return [part[axes] for part in (parts[::-1] if kind == "all_gather" else parts)]


def _union(masks: Sequence[Array], none: Array) -> Array:
    return reduce(np.bitwise_or, masks, none)


def _parts(source: Array, elements: float, mesh: MeshShape) -> Array:
    """Elements of one device's part."""
    parts = mesh.size[np.bitwise_or.reduce(source[:, :-1], axis=1)] if source.shape[1] > 1 else np.ones(len(source))
    return elements / parts
