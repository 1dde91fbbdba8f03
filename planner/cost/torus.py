"""Which torus axes each mesh axis walks, and what their wires carry.

Where devices have coordinates these say which. An AbstractMesh is taken to have a torus axis for each mesh axis, walked
from end to end, in a slice whose axes close where its chip allows. A torus axis of two chips has one wire, not two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from planner.cost.fabric import Fabric, Link

Array = np.ndarray


@dataclass(frozen=True)
class Walk:
    """What a mesh axis covers of one torus axis.

    Attributes:
        line: The torus axis.
        size: Devices of the mesh axis along it.
        extent: Places that the devices spread over; `extent / size` groups share each wire.
        length: Places of the torus axis; 0 where the walk is no line and never closes.
    """

    line: int
    size: int
    extent: int
    length: int

    @property
    def number(self) -> int:
        """The torus axis; the first where it follows none, as the last of a `jax.make_mesh` on 2×4 chips of v5e."""
        return max(self.line, 0)


def torus_links(mesh: Mesh | AbstractMesh, fabric: Fabric, near: Sequence[int]) -> list[tuple[Link, ...]]:
    """For each mesh axis its torus axes; `near` is the number of its devices within one slice."""
    places = places_of(mesh)
    walks = assumed_walks(near, fabric.torus) if places is None else walks_of(places, near)
    whole = not fabric.cubes or places is None or not any(n % (fabric.wraps or 1) for n in _lengths(places)[:-1])
    return [tuple(_ring(fabric, walk, whole) for walk in axis) for axis in walks]


def _ring(fabric: Fabric, walk: Walk, whole: bool) -> Link:
    """Both directions of a torus axis, when it is walked from end to end and closes; else there is one way around."""
    closes = whole and fabric.wraps > 0 and walk.extent == walk.length and walk.length % fabric.wraps == 0
    hops = walk.extent // 2 if closes else walk.extent - walk.extent // walk.size
    way = fabric.link * (walk.size / walk.extent)
    rate = (2 if closes else 1) * way
    ring = 2 * way if fabric.one_ring else 0.0
    wires = {"line": f"torus {walk.line}", "number": walk.number}
    return Link(walk.size, rate, hops, fabric.hop, walk.size / 4, ring=ring, **wires)


def assumed_walks(near: Sequence[int], torus: int) -> list[tuple[Walk, ...]]:
    """A torus axis per mesh axis. Where there are fewer, neighbours share one, those with the least devices first."""
    lines = [[axis] for axis, size in enumerate(near) if size > 1]
    while len(lines) > torus:
        at = min(range(len(lines) - 1), key=lambda k: prod(near[a] for a in lines[k] + lines[k + 1]))
        lines[at : at + 2] = [lines[at] + lines[at + 1]]
    walks: list[tuple[Walk, ...]] = [()] * len(near)
    for number, line in enumerate(lines):
        for i, axis in enumerate(line):
            length, extent = (prod(near[a] for a in part) for part in (line, line[i:]))
            walks[axis] = (Walk(number, near[axis], extent, length),)
    return walks


def places_of(mesh: Mesh | AbstractMesh) -> Array | None:
    """Torus coordinates of each device, and its core on the chip: [*mesh, torus axes + 1]. None without coords."""
    devices = None if isinstance(mesh, AbstractMesh) else mesh.devices
    if devices is None or getattr(devices.flat[0], "coords", None) is None:
        return None
    places = [(*d.coords, getattr(d, "core_on_chip", 0)) for d in devices.flat]
    return np.array(places).reshape(*devices.shape, -1)


def _lengths(places: Array) -> list[int]:
    return (np.ptp(places.reshape(-1, places.shape[-1]), axis=0) + 1).tolist()


def walks_of(places: Array, near: Sequence[int]) -> list[tuple[Walk, ...]]:
    """For each mesh axis the torus axes that it walks. One that walks no block is priced as if each group used all."""
    return [_walks(places, axis, size) if size > 1 else () for axis, size in enumerate(near)]


def _walks(places: Array, axis: int, near: int) -> tuple[Walk, ...]:
    steps = np.diff(np.sort(_groups(places, axis), axis=0), axis=0)
    distinct = (steps > 0).sum(0) + 1
    sizes, lengths = distinct[0].tolist(), _lengths(places)
    if (distinct != distinct[0]).any() or prod(sizes) != near:
        return (Walk(-1 - axis, near, prod(lengths), 0),)
    stride = steps.max(0)
    even = np.where(steps > 0, steps, stride).min(0) == stride
    extents = np.where(even, distinct * stride, lengths).max(0).tolist()
    return tuple(Walk(d, n, extents[d], lengths[d]) for d, n in enumerate(sizes) if n > 1)


def _groups(places: Array, axis: int) -> Array:
    """The places along a mesh axis: [devices of the axis, groups, torus axes]."""
    return np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1, places.shape[-1])


def torus_spans(mesh: Mesh | AbstractMesh) -> tuple[tuple[int, ...], ...] | None:
    """For each mesh axis the lengths of the torus axes that it walks, read from `device.coords`; None without coords.

    Mesh axis order is not topology: a 16-wide mesh axis may be a 4×4 plane, which has twice the links of a ring.
    """
    places = places_of(mesh)
    if places is None:
        return None
    walks = walks_of(places, places.shape[:-1])
    return tuple(tuple(walk.size for walk in axis) or (1,) for axis in walks)


def torus_walks(mesh: Mesh | AbstractMesh) -> dict[str, tuple[tuple[int, int], ...]]:
    """For each mesh axis the torus axes that it walks, by number, and its devices along them; empty without coords."""
    places = places_of(mesh)
    if places is None:
        return {}
    walks = walks_of(places, places.shape[:-1])
    return {name: tuple((walk.number, walk.size) for walk in axis) for name, axis in zip(mesh.axis_names, walks)}
