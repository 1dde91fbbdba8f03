"""From a mesh to its links: which wires each mesh axis follows.

An axis is first divided between domains (slices, nodes) and what lies within one; the latter is a switch, or walks
torus axes. Devices may say their slice; else a mesh is taken to fill its domains in row-major order.
"""

from collections.abc import Sequence
from math import ceil, prod

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from planner.cost.fabric import Fabric, Link, joined
from planner.cost.torus import torus_links
from planner.errors import MeshError

Array = np.ndarray


def links_of(mesh: Mesh | AbstractMesh, fabric: Fabric, across: Sequence[str] = ()) -> tuple[Link, ...]:
    """One link per mesh axis.

    Args:
        mesh: A Mesh, whose devices may have `coords` and `slice_index`, or an AbstractMesh.
        fabric: What lies between the devices.
        across: Mesh axes that run from domain to domain; empty to go by `slice_index`, else by `fabric.node`.

    Raises:
        MeshError: `across` names no axis of the mesh, or the mesh leaves a domain and the fabric ends there.
    """
    sizes = tuple(mesh.shape.values())
    domains = domains_of(mesh, fabric, across)
    near = tuple(_share(domains, axis) for axis in range(len(sizes)))
    if near != sizes and not fabric.outer:
        raise MeshError(
            f"mesh {dict(mesh.shape)} is larger than a domain of this machine, and nothing connects domains:"
            " give Fabric.outer (bytes/s per device between domains), a larger Fabric.node, or a smaller mesh"
        )
    inner = torus_links(mesh, fabric, near) if fabric.torus else [_switch(fabric, n) for n in near]
    return tuple(_axis(fabric, n, total, parts) for n, total, parts in zip(near, sizes, inner))


def _axis(fabric: Fabric, near: int, size: int, inner: tuple[Link, ...]) -> Link:
    if size == 1:
        return Link(1, fabric.link, 0, fabric.hop, 0.0, switched=not fabric.torus)
    return joined((*inner, *_outer(fabric, size / near)))


def _switch(fabric: Fabric, size: int) -> tuple[Link, ...]:
    link = Link(size, fabric.link, (size - 1).bit_length(), fabric.hop, 1 - 1 / size, switched=True)
    return (link,) if size > 1 else ()


def _outer(fabric: Fabric, size: float) -> tuple[Link, ...]:
    hops = (ceil(size) - 1).bit_length()
    link = Link(size, fabric.outer, hops, fabric.outer_hop, 1 - 1 / size, switched=True, outer=True)
    return (link,) if size > 1 else ()


def domains_of(mesh: Mesh | AbstractMesh, fabric: Fabric, across: Sequence[str] = ()) -> Array:
    """The number of each device's domain, in the shape of the mesh."""
    names, sizes = tuple(mesh.shape), tuple(mesh.shape.values())
    for name in across:
        if name not in names:
            raise MeshError(f"no mesh axis {name!r} to run across domains: the mesh has {', '.join(map(str, names))}")
    if not across and not isinstance(mesh, AbstractMesh) and hasattr(mesh.devices.flat[0], "slice_index"):
        return np.array([d.slice_index for d in mesh.devices.flat]).reshape(sizes)
    order = sorted(range(len(names)), key=lambda i: names[i] not in across)
    inside = prod(size for name, size in mesh.shape.items() if name not in across)
    number = np.arange(prod(sizes))
    domain = number // inside * inside + number % inside // fabric.node
    return domain.reshape([sizes[i] for i in order]).transpose(np.argsort(order))


def _share(domains: Array, axis: int) -> int:
    """Devices that one domain has along a mesh axis: the fewest, as the smallest share has the least egress."""
    lines = np.moveaxis(domains, axis, 0).reshape(domains.shape[axis], -1)
    keys = lines + (lines.max() + 1) * np.arange(lines.shape[1])
    return int(np.unique(keys, return_counts=True)[1].min())
