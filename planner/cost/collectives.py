"""Seconds of a collective, by the α–β model: bytes over bandwidth plus hops.

`nbytes` is always what one device holds where it holds most: the *output* of an all_gather, the *input* of a
reduce_scatter, so that all_reduce = reduce_scatter + all_gather.  Pope et al. 2022, appendix A.1; Chan et al. 2007.
What several axes carry together: `planner.cost.fabric`.

Arguments are numbers or arrays alike: a `Groups` holds one entry per set of mesh axes, indexed by mask.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.cost import fabric
from planner.cost.fabric import Link

Array = np.ndarray
Numbers = Array | float


@dataclass(frozen=True)
class Groups:
    """The devices that one collective joins: for each set of mesh axes, arrays of shape [2^axes].

    Attributes:
        size: Number of devices.
        bandwidth: Bytes/s that a device sends, over all axes of the set.
        latency: Seconds for the farthest hop.
        gather: Bytes/s of an all_gather or reduce_scatter alone.
        gather_latency: Seconds for the farthest hop of those.
        ring: Bytes/s to each of both neighbours at once in a ring through all of them.
        ring_turns: To one neighbour alone it is so many times that.
        ring_hop: Seconds to the farthest neighbour.
        phases: Steps of each half of an all_reduce.
        gather_phases: Steps of an all_gather or reduce_scatter.
        exchange: Seconds per byte of an all_to_all.
        detour: Seconds per byte of a permute on the fullest wire.
        drain: Seconds per byte to a single other device.
    """

    size: Array
    bandwidth: Array
    latency: Array
    gather: Array
    gather_latency: Array
    ring: Array
    ring_turns: Array
    ring_hop: Array
    phases: Array
    gather_phases: Array
    exchange: Array
    detour: Array
    drain: Array

    def __getitem__(self, mask: "int | Array") -> "Groups":
        return _Some(self, mask)


class _Some(Groups):
    """Groups of some sets of axes: what is asked for is looked up then."""

    def __init__(self, every: Groups, mask: "int | Array") -> None:
        vars(self).update(_every=every, _mask=mask)

    def __getattr__(self, name: str) -> Array:
        return getattr(self._every, name)[self._mask]


SKEW = 1e-5
"""Equal axes are told apart by this share of their time, later ones faster: alike operations then choose alike."""


def groups(links: Sequence[Link]) -> Groups:
    """Groups of every set of mesh axes."""
    wires = [[_told_apart(wire, i) for wire in link.wires()] for i, link in enumerate(links)]
    sets = [[axis for axis in range(len(links)) if mask >> axis & 1] for mask in range(1 << len(links))]
    joint = [[wire for axis in axes for wire in wires[axis]] for axes in sets]
    laws = (
        fabric.bandwidth,
        fabric.latency,
        fabric.gather_bandwidth,
        fabric.gather_latency,
        fabric.ring_bandwidth,
        fabric.ring_turns,
        fabric.ring_hop,
        fabric.phases,
        fabric.gather_phases,
        fabric.exchange,
        fabric.detour,
        fabric.drain,
    )
    size = np.array([np.prod([links[axis].size for axis in axes]) for axes in sets])
    return Groups(size, *(np.array([law(wires) for wires in joint]) for law in laws))


def _told_apart(link: Link, axis: int) -> Link:
    faster = 1 + SKEW * axis
    return replace(link, bandwidth=link.bandwidth * faster, ring=link.ring * faster, hop=link.hop / faster)


def all_gather(nbytes: Numbers, group: Groups) -> Array:
    """Seconds until every device of the group holds all `nbytes`. Zero for a group of one."""
    return nbytes * (1 - 1 / group.size) / group.gather + group.gather_latency


def reduce_scatter(nbytes: Numbers, group: Groups) -> Array:
    """Seconds until every device holds its share of the sum of arrays of `nbytes` each."""
    return all_gather(nbytes, group)


def all_reduce(nbytes: Numbers, group: Groups) -> Array:
    """Seconds until every device holds the whole sum of arrays of `nbytes` each."""
    return 2 * (nbytes * (1 - 1 / group.size) / group.bandwidth + group.latency)


def all_to_all(nbytes: Numbers, group: Groups) -> Array:
    """Seconds to move a split from one dim to another, `nbytes` per device before as after."""
    return nbytes * group.exchange + group.latency


def permute(nbytes: Numbers, group: Groups) -> Array:
    """Seconds to send all `nbytes` of each device to one other device of the group, whichever it is."""
    return nbytes * np.maximum(group.detour, group.drain) + group.latency


def phases(kind: str, group: Groups) -> Array:
    """Steps that a collective takes one after the other, each with a start of its own."""
    if kind == "all_reduce":
        return 2 * group.phases
    return group.gather_phases if kind in ("all_gather", "reduce_scatter") else np.minimum(group.phases, 1)


COLLECTIVES: Mapping[str, Callable[[Numbers, Groups], Array]] = {
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_reduce": all_reduce,
    "all_to_all": all_to_all,
    "permute": permute,
}
