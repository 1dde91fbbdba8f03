"""Compile-only devices of TPU pods: the real compiler on any Linux machine. Needs the extra `tpu-aot` (libtpu).

libtpu reads its settings from the environment when it is first loaded; they keep it off the network, and let several
processes compile at once.
"""

import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from planner.errors import AuditError

SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v4-128",  # any valid name: the topology is asked for below
}
MACHINES: Mapping[str, str] = MappingProxyType(
    {"v4": "tpu-v4", "v5e": "tpu-v5e", "v5p": "tpu-v5p", "v6e": "tpu-v6e"},
)
CLOCKS: Mapping[str, float] = MappingProxyType(
    {"tpu-v4": 1.05e9, "tpu-v5e": 1.5e9, "tpu-v5p": 1.75e9, "tpu-v6e": 1.75e9},
)
"""Cycles per second: the bf16 peak over the FLOPs of a chip's matrix units in a cycle, 2·128² each: 8 units for v4 and
v5p, 4 for v5e, 16 (4 of 256 × 256) for v6e."""


def has_libtpu() -> bool:
    """Whether the extra `tpu-aot` is installed."""
    return find_spec("libtpu") is not None


def topology_mesh(name: str, sizes: Sequence[int] = (), names: Sequence[str] = ()) -> Mesh:
    """A mesh of compile-only devices.

    Args:
        name: Generation and chips along each torus axis, such as "v4:4x4x4" or "v5e:4x8".
        sizes: Devices along each mesh axis; by default those of the torus.
        names: Of the mesh axes; by default x, y, z.

    Raises:
        AuditError: libtpu is not installed, there is no such topology, or the mesh does not fit on it.
    """
    generation, torus = parse(name)
    if not has_libtpu():
        raise AuditError(
            f"topology {name!r} needs libtpu: pip install 'meshplan[tpu-aot]', or audit without a topology"
        )
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    sizes = tuple(sizes) or torus
    names = tuple(names) or tuple("xyzw"[: len(sizes)])
    options: dict[str, Any] = {"chip_config_name": "megacore"} if generation == "v4" else {}
    try:
        topology = topologies.get_topology_desc(name, "tpu", **options)
        mesh = topologies.make_mesh(topology, sizes, names)
    except Exception as error:  # libtpu and JAX raise their own, of many types
        raise AuditError(f"topology {name!r} with mesh {dict(zip(names, sizes))}: {error}") from error
    return mesh.update(axis_types=(AxisType.Auto,) * len(names))


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Generation and torus of a topology's name. Raises AuditError."""
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    if not found or found[1] not in MACHINES:
        raise AuditError(
            f"topology {name!r}: write one of {', '.join(MACHINES)} and the torus, such as v4:4x4x4 or v5e:4x8"
        )
    return found[1], tuple(int(n) for n in found[2].split("x"))
