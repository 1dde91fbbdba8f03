"""What it takes to get from one layout to another: the collectives of an edge, for all pairs of layouts at once.

Slices first (they shrink what follows), then reduce_scatter, all_to_all, all_reduce, and all_gather last. Going
*to* an open sum is impossible except from the same open sum.
"""

from dataclasses import dataclass

import numpy as np

from planner.sharding import MeshShape

Array = np.ndarray
STEPS = ("reduce_scatter", "all_to_all", "all_reduce", "all_gather")
REPLICATED = -1


@dataclass(frozen=True, eq=False)
class Reshard:
    """The steps from each of `p` layouts to each of `q` layouts.

    Attributes:
        possible: Boolean array of shape [p, q].
        masks: For each of STEPS the mesh axes that it spans: int arrays of shape [p, q]; 0 where the step is not
            needed.
        elements: For each of STEPS the elements per device that it moves, as `planner.cost.collectives` counts them.
        sliced: The mesh axes that come to a dim without a collective, as each device has what it keeps: int array of
            shape [p, q].
    """

    possible: Array
    masks: dict[str, Array]
    elements: dict[str, Array]
    sliced: Array


def reshard(source: Array, target: Array, elements: float, mesh: MeshShape) -> Reshard:
    """Steps between layouts of an array of `elements`; `source` [p, ndim + 1] and `target` [q, ndim + 1]."""
    ndim = source.shape[1] - 1
    origin, goal = _places(source, mesh), _places(target, mesh)
    a, b = origin[:, None, :], goal[None, :, :]
    split_a, split_b, open_a, open_b = (a >= 0) & (a < ndim), (b >= 0) & (b < ndim), a == ndim, b == ndim
    possible = ~(open_b & ~open_a).any(2)
    moved = {
        "reduce_scatter": open_a & split_b,
        "all_to_all": split_a & split_b & (a != b),
        "all_reduce": open_a & (b == REPLICATED),
        "all_gather": split_a & (b == REPLICATED),
    }
    leaving = moved["all_to_all"] | moved["all_gather"]
    sliced = (a == REPLICATED) & split_b
    early = sliced & ~_shares_dim(b, a, leaving)
    masks = {step: _mask(axes) for step, axes in moved.items()}
    volumes = _volumes(source, elements, masks, _mask(early), mesh)
    return Reshard(possible, masks, volumes, _mask(sliced))


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


def _volumes(
    source: Array, elements: float, masks: dict[str, Array], early: Array, mesh: MeshShape
) -> dict[str, Array]:
    parts = mesh.size[np.bitwise_or.reduce(source[:, :-1], axis=1)] if source.shape[1] > 1 else np.ones(len(source))
    start = (elements / parts)[:, None] / mesh.size[early]
    scattered = start / mesh.size[masks["reduce_scatter"]]
    gathered = scattered * mesh.size[masks["all_gather"]]
    return {"reduce_scatter": start, "all_to_all": scattered, "all_reduce": scattered, "all_gather": gathered}
