"""Wires between chips: the fabric as data, links, and what several links carry together.

Bandwidth adds up over the axes of a torus; a switch is as fast as its slowest axis. Beyond the domain, a
slice or a node, lies a slower network; a collective over both levels takes as long as its slower level.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Annotated

from pydantic import ConfigDict, Field

from planner.cost.cycle import Cycle

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Fabric:
    """What lies between chips.

    Attributes:
        link: Bytes/s of one link, one direction (torus), or a device's egress into the switch.
        hop: Seconds per hop.
        torus: Number of torus axes; 0 for a switch.
        wraps: A torus axis closes into a ring when its length is a multiple of this; 0 for never.
        node: Devices of one domain (a slice of a torus, a node behind one switch); beyond it, `outer` counts.
        outer: Bytes/s per device between domains: data-center network, InfiniBand. 0 where there is none.
        outer_hop: Seconds per hop between domains.
        cubes: Torus axes close only where all of them have such a length.
        one_ring: An all_gather or reduce_scatter over several torus axes runs as one ring through them all, or as an
            all_reduce, which alone drives every link: whichever is faster. False for all links in any case.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    link: Positive
    hop: Positive = 1e-6
    torus: Count = 0
    wraps: Count = 0
    node: Annotated[int, Field(gt=0)] = 1 << 30
    outer: Amount = 0.0
    outer_hop: Positive = 1e-5
    cubes: bool = False
    one_ring: bool = False


@dataclass(frozen=True)
class Link:
    """How one mesh axis is wired.

    Attributes:
        size: Number of devices along the axis; for a part, along that part. Uneven domains make fractions.
        bandwidth: Bytes/s that a device can send along the axis in a collective, all directions together.
        diameter: Hops between the two farthest devices.
        hop: Seconds per hop.
        exchange: Seconds of an all_to_all in units of its bytes over `bandwidth`: a ring's middle carries a quarter of
            all bytes each way, size/4; a switch sends to each of the others once, 1 - 1/size.
        switched: All pairs are equally near (NVLink, InfiniBand) rather than on a ring.
        line: Links of one name follow the same wires; a link without a name has its own.
        outer: Between domains rather than within one.
        parts: The links that the axis is made of, where it is more than one.
        ring: Bytes/s, both directions, of a ring that runs through this and further torus axes, where a collective is
            one ring (`Fabric.one_ring`); 0 where all axes work at once.
        number: The torus axis that it follows. One that follows no single one is taken for the first.
    """

    size: float
    bandwidth: float
    diameter: int
    hop: float
    exchange: float
    switched: bool = False
    line: str = ""
    outer: bool = False
    parts: tuple["Link", ...] = ()
    ring: float = 0.0
    number: int = 0

    def wires(self) -> tuple["Link", ...]:
        """The links it is made of, without those that join nothing."""
        return tuple(part for part in self.parts or (self,) if part.size > 1)

    @property
    def walks(self) -> tuple[tuple[int, int, bool], ...]:
        """Each torus axis that it walks: its number, devices along it, whether it closes. Empty if it leaves it."""
        wires = self.wires()
        if any(wire.switched or wire.outer for wire in wires):
            return ()
        return tuple((wire.number, int(wire.size), _closes(wire)) for wire in wires)

    @property
    def in_planes(self) -> bool:
        """Whether a gather or scatter is one ring through several torus axes (`Fabric.one_ring`)."""
        return any(wire.ring for wire in self.wires())


def joined(links: Sequence[Link]) -> Link:
    """Several links that one mesh axis follows, as one."""
    if len(links) == 1:
        return links[0]
    rate, hops = bandwidth(links), sum(link.diameter for link in links)
    switched = all(link.switched for link in links)
    size = prod(link.size for link in links)
    return Link(size, rate, hops, latency(links) / hops, exchange(links) * rate, switched, parts=tuple(links))


def bandwidth(links: Sequence[Link]) -> float:
    """Bytes/s such that an all_gather of V bytes takes V·(1 - 1/devices)/bandwidth; infinite for no links.

    Two levels, g devices in each of M domains: V·max((g-1)/(g·W), (M-1)/(M·g·outer)), as all g devices of a domain
    share what comes in. jax-ml/scaling-book, "gpus": V·max[(D-1)/(D·W)] over the levels of a tree.
    """
    return _two_levels(links, _inner(links))


def gather_bandwidth(links: Sequence[Link]) -> float:
    """As `bandwidth`, of an all_gather or reduce_scatter alone: one ring, or half an all_reduce's, where it is so."""
    if not _one_ring(links):
        return bandwidth(links)
    return _two_levels(links, _inner(links) / 2 if _as_all_reduce(links) else _one_ring(links))


def latency(links: Sequence[Link]) -> float:
    """Seconds for the farthest hop."""
    return sum(link.diameter * link.hop for link in links)


def gather_latency(links: Sequence[Link]) -> float:
    """Seconds for the farthest hop of an all_gather or reduce_scatter: half way round a ring, or as an all_reduce."""
    ring = [link for link in links if not link.outer]
    if not _one_ring(links):
        return latency(links)
    if _as_all_reduce(links):
        return 2 * latency(links)
    half = prod(link.size for link in ring) // 2 * max(link.hop for link in ring)
    return half + latency([link for link in links if link.outer])


def ring_bandwidth(links: Sequence[Link]) -> float:
    """Bytes/s to each of both neighbours at once in a ring through all devices (`planner.cost.cycle`)."""
    ring = _cycle(links)
    if ring is None:
        return min((link.bandwidth / 2 for link in links), default=inf)
    ways = (link.bandwidth / (2 if _closes(link) and link.size > 2 else 1) for link in links)
    return min((way / load for way, load in zip(ways, ring.loads)), default=inf)


def ring_turns(links: Sequence[Link]) -> int:
    """How many ways around that ring take turns on a wire: both where it walks a row, or goes through a switch."""
    ring = _cycle(links)
    return 2 if ring is None else max(ring.loads)


def ring_hop(links: Sequence[Link]) -> float:
    """Seconds to the farthest neighbour in that ring."""
    ring = _cycle(links)
    return latency(links) if ring is None else ring.hops * max(latency([x]) / _reach(x) for x in links)


def _reach(link: Link) -> int:
    """Places between the two farthest devices."""
    return int(link.size // 2 if _closes(link) else link.size - 1)


def _cycle(links: Sequence[Link]) -> Cycle | None:
    """The ring through the places of a torus; None where a switch or a network is on the way."""
    if not links or any(link.switched or link.outer for link in links):
        return None
    return Cycle(tuple((int(link.size), _closes(link)) for link in links))


def _closes(link: Link) -> bool:
    return link.diameter <= link.size // 2


def phases(links: Sequence[Link]) -> int:
    """Steps in which a collective on all links goes from torus axis to torus axis; a switch, and what is beyond, one.

    The TPU compiler notes "colors:6 phases:3" on an all_reduce over the three axes of a v4 cube.
    """
    near = [link for link in links if not link.outer]
    walked = 1 if any(link.switched for link in near) else len(list(_lines(near)))
    return walked + any(link.outer for link in links)


def gather_phases(links: Sequence[Link]) -> int:
    """Steps of an all_gather or reduce_scatter: one ring is one, an all_reduce has those of both its halves."""
    if not _one_ring(links):
        return phases(links)
    if _as_all_reduce(links):
        return 2 * phases(links)
    return 1 + any(link.outer for link in links)


def _two_levels(links: Sequence[Link], near: float) -> float:
    far = [link for link in links if link.outer]
    if not far:
        return near
    g, m = (prod(link.size for link in links if link.outer is outer) for outer in (False, True))
    return (1 - 1 / (g * m)) / max((1 - 1 / g) / near, (1 - 1 / m) / (g * _slowest(far)))


def _as_all_reduce(links: Sequence[Link]) -> bool:
    """Whether all links, twice, are faster than one ring: with three torus axes and more. Equal is not faster."""
    return _inner(links) / 2 > 1.01 * _one_ring(links)


def _one_ring(links: Sequence[Link]) -> float:
    """Bytes/s of the ring through several torus axes; 0 where there is but one, or all work at once."""
    near = [link for link in links if not link.outer]
    return min(link.ring for link in near) if len(list(_lines(near))) > 1 else 0.0


def exchange(links: Sequence[Link]) -> float:
    """Seconds per byte of an all_to_all: that of the slowest link, as each link crosses its own middle."""
    return max((link.exchange / link.bandwidth for link in links), default=0.0)


def detour(links: Sequence[Link]) -> float:
    """Seconds per byte of a permute within a domain: messages walk one torus axis after the other, the shorter way.

    At worst half of a ring's devices, or of a row's, send over one wire the same way: four times, or twice, what an
    all_to_all takes, which spreads its bytes over all distances and both ways. A switch has no distances.
    """
    return max((link.exchange / link.bandwidth * _worst(link) for link in links), default=0.0)


def _worst(link: Link) -> int:
    return 1 if link.switched else 4 if _closes(link) else 2


def drain(links: Sequence[Link]) -> float:
    """Seconds per byte that a device sends to a single other one: by the torus or switch, or out of the domain."""
    return max(1 / _inner(links), 1 / _slowest([link for link in links if link.outer]))


def _inner(links: Sequence[Link]) -> float:
    near = [link for link in links if not link.outer]
    if any(link.switched for link in near):
        return _slowest(near)
    return sum(map(_line, _lines(near))) if near else inf


def _slowest(links: Sequence[Link]) -> float:
    return min((link.bandwidth for link in links), default=inf)


def _line(links: Sequence[Link]) -> float:
    """Mesh axes that share the wires of one torus axis: each device gets what the farthest reaching leaves it."""
    devices = prod(link.size for link in links)
    return min(link.bandwidth * (devices / link.size) for link in links)


def _lines(links: Sequence[Link]) -> Iterator[list[Link]]:
    yield from ([link] for link in links if not link.line)
    for name in dict.fromkeys(link.line for link in links if link.line):
        yield [link for link in links if link.line == name]
