"""Seconds of a collective, by the α–β model: bytes over bandwidth plus hops.

`nbytes` is always what one device holds where it holds most: the *output* of an all_gather, the *input* of a
reduce_scatter, so that all_reduce = reduce_scatter + all_gather.  Pope et al. 2022, appendix A.1; Chan et al. 2007.
On a torus bandwidth adds up over the axes that a collective spans (jax-ml/scaling-book, "sharding").

Arguments are numbers or arrays alike: a `Groups` holds one entry per set of mesh axes, indexed by mask.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.cost.hardware import Link

Array = np.ndarray
Numbers = Array | float


@dataclass(frozen=True)
class Groups:
    """The devices that one collective joins: for each set of mesh axes, arrays of shape [2^axes].

    Attributes:
        size: Number of devices.
        bandwidth: Bytes/s that a device sends, over all axes of the set.
        latency: Seconds for the farthest hop.
        exchange: Seconds per byte of an all_to_all.
    """

    size: Array
    bandwidth: Array
    latency: Array
    exchange: Array

    def __getitem__(self, mask: "int | Array") -> "Groups":
        return Groups(self.size[mask], self.bandwidth[mask], self.latency[mask], self.exchange[mask])


SKEW = 1e-5
"""Equal axes are told apart by this share of their time, later ones faster: alike operations then choose alike."""


def groups(links: Sequence[Link]) -> Groups:
    """Groups of every set of mesh axes."""
    links = [
        replace(link, bandwidth=link.bandwidth * (1 + SKEW * i), hop=link.hop * (1 - SKEW * i))
        for i, link in enumerate(links)
    ]
    sets = [[link for i, link in enumerate(links) if mask >> i & 1] for mask in range(1 << len(links))]
    return Groups(
        np.array([np.prod([link.size for link in s]) for s in sets]),
        np.array([_bandwidth(s) for s in sets]),
        np.array([sum(link.diameter * link.hop for link in s) for s in sets]),
        np.array([max((link.exchange / link.bandwidth for link in s), default=0.0) for s in sets]),
    )


def _bandwidth(links: Sequence[Link]) -> float:
    """Torus axes work side by side; behind a switch the slowest axis is the limit."""
    if not links:
        return np.inf
    return min(link.bandwidth for link in links) if links[0].switched else sum(link.bandwidth for link in links)


def all_gather(nbytes: Numbers, group: Groups) -> Array:
    """Seconds until every device of the group holds all `nbytes`. Zero for a group of one."""
    return nbytes * (1 - 1 / group.size) / group.bandwidth + group.latency


def reduce_scatter(nbytes: Numbers, group: Groups) -> Array:
    """Seconds until every device holds its share of the sum of arrays of `nbytes` each."""
    return all_gather(nbytes, group)


def all_reduce(nbytes: Numbers, group: Groups) -> Array:
    """Seconds until every device holds the whole sum of arrays of `nbytes` each."""
    return 2 * all_gather(nbytes, group)


def all_to_all(nbytes: Numbers, group: Groups) -> Array:
    """Seconds to move a split from one dim to another, `nbytes` per device before as after."""
    return nbytes * group.exchange + group.latency


def permute(nbytes: Numbers, group: Groups) -> Array:
    """Seconds to send all `nbytes` of each device to one other device of the group, whichever it is."""
    return np.where(group.size > 1, nbytes * np.maximum(group.exchange, 1 / group.bandwidth) + group.latency, 0.0)


COLLECTIVES: Mapping[str, Callable[[Numbers, Groups], Array]] = {
    "all_gather": all_gather,
    "reduce_scatter": reduce_scatter,
    "all_reduce": all_reduce,
    "all_to_all": all_to_all,
    "permute": permute,
}
