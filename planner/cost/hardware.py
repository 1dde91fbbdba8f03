"""Chips and links as data.

A `Machine` is a chip and the fabric between chips; given a mesh it answers with one `Link` per mesh axis. Numbers are
the vendors' (datasheets; TPU tables collected in jax-ml/scaling-book, chapters "tpus" and "gpus"), bf16 dense without
sparsity.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from planner.errors import UnknownMachineError


@dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
        flops: Peak FLOP/s by dtype name.
        hbm_bytes: Bytes of memory.
        hbm_bandwidth: Bytes/s of that memory.
        tile: Buffers are padded to multiples of this in their last two dims (sublane, lane).
        mxu: The matrix unit pads contracted and output dims to multiples of this.
        flops_share: Share of peak FLOP/s that a large matmul reaches.
        hbm_share: Share of the peak bandwidth that a large copy reaches.
        overhead: Seconds that any collective costs beside its bytes and hops.
    """

    name: str
    flops: Mapping[str, float]
    hbm_bytes: float
    hbm_bandwidth: float
    tile: tuple[int, int] = (1, 1)
    mxu: int = 1
    flops_share: float = 1.0
    hbm_share: float = 1.0
    overhead: float = 0.0

    def rate(self, dtype: str) -> float:
        """FLOP/s for operands of a dtype; f32 and integers without a rate of their own run at the f32 rate."""
        return self.flops_share * self.flops.get(dtype, self.flops["float32"])


@dataclass(frozen=True)
class Link:
    """How one mesh axis is wired.

    Attributes:
        size: Number of devices along the axis.
        bandwidth: Bytes/s that a device can send along the axis in a collective, all directions together.
        diameter: Hops between the two farthest devices.
        hop: Seconds per hop.
        exchange: Seconds of an all_to_all in units of its bytes over `bandwidth`: a ring's middle carries a quarter of
            all bytes each way, size/4; a switch sends to each of the others once, 1 - 1/size.
        switched: All pairs are equally near (NVLink, InfiniBand) rather than on a ring.
    """

    size: int
    bandwidth: float
    diameter: int
    hop: float
    exchange: float
    switched: bool = False


@dataclass(frozen=True)
class Fabric:
    """What lies between chips.

    Attributes:
        link: Bytes/s of one link, one direction (torus), or a device's egress into the switch.
        hop: Seconds per hop.
        torus: Number of torus axes; 0 for a switch.
        wraps: An axis closes into a ring when its size is a multiple of this; 0 for never.
        node: Devices behind one switch; beyond it, `outer` bytes/s per device.
        outer: Bytes/s per device between nodes.
    """

    link: float
    hop: float = 1e-6
    torus: int = 0
    wraps: int = 0
    node: int = 1 << 30
    outer: float = 0.0


@dataclass(frozen=True)
class Machine:
    """A chip and its fabric. Any other hardware is one more of these."""

    name: str
    chip: Chip
    fabric: Fabric

    def links(self, mesh: Mesh | AbstractMesh) -> tuple[Link, ...]:
        """One link per mesh axis: torus axes from device coordinates where there are any, else a ring per mesh axis."""
        sizes = tuple(mesh.shape.values())
        if not self.fabric.torus:
            inner = np.cumprod((1, *reversed(sizes)))[:-1][::-1]
            return tuple(self._switch(size, int(stride)) for size, stride in zip(sizes, inner))
        spans = torus_spans(mesh) or tuple((size,) for size in sizes)
        return tuple(self._torus(size, span) for size, span in zip(sizes, spans))

    def _switch(self, size: int, stride: int) -> Link:
        bandwidth = self.fabric.link if size * stride <= self.fabric.node else self.fabric.outer
        return Link(size, bandwidth, (size - 1).bit_length(), self.fabric.hop, 1 - 1 / size, switched=True)

    def _torus(self, size: int, span: tuple[int, ...]) -> Link:
        ways = [2 if self.fabric.wraps > 0 and s % self.fabric.wraps == 0 else 1 for s in span]
        diameter = sum(s // 2 if way == 2 else s - 1 for s, way in zip(span, ways))
        exchange = max(s / 4 / way for s, way in zip(span, ways)) * sum(ways) if size > 1 else 0.0
        return Link(size, self.fabric.link * sum(ways), diameter, self.fabric.hop, exchange)


def torus_spans(mesh: Mesh | AbstractMesh) -> tuple[tuple[int, ...], ...] | None:
    """For each mesh axis the lengths of the torus axes that it walks, read from `device.coords`; None without coords.

    Mesh axis order is not topology: a 16-wide mesh axis may be a 4×4 plane, which has twice the links of a ring.
    """
    devices = None if isinstance(mesh, AbstractMesh) else mesh.devices
    if devices is None or getattr(devices.flat[0], "coords", None) is None:
        return None
    coords = np.array([d.coords for d in devices.flat]).reshape(*devices.shape, -1)
    spans = []
    for axis in range(devices.ndim):
        line = np.moveaxis(coords, axis, 0).reshape(devices.shape[axis], -1, coords.shape[-1])[:, 0]
        lengths = tuple(int(n) for n in (len(np.unique(line[:, d])) for d in range(line.shape[1])) if n > 1)
        spans.append(lengths or (devices.shape[axis],))
    return tuple(spans)


FITTED = (0.75, 0.7, 1.5e-5)
"""flops_share, hbm_share and overhead of TPUs: fitted on tpu-v4 by benchmarks/paper/calibrate.py, on the 540B bf16 points
of figure 1 in Pope et al. 2022, and taken for the other TPUs too. GPUs and the CPU stand at their datasheets."""


def _tpu(name: str, bf16: float, int8: float, hbm: float, bandwidth: float, fabric: Fabric, mxu: int = 128) -> Machine:
    flops = {"bfloat16": bf16, "float16": bf16, "int8": int8, "float32": bf16 / 4}
    return Machine(name, Chip(name, flops, hbm, bandwidth, (8, 128), mxu, *FITTED), fabric)


def _gpu(name: str, bf16: float, fp8: float, hbm: float, bandwidth: float, egress: float) -> Machine:
    flops = {"bfloat16": bf16, "float16": bf16, "int8": fp8, "float8_e4m3fn": fp8, "float32": bf16 / 2}
    return Machine(name, Chip(name, flops, hbm, bandwidth), Fabric(egress, 2e-6, node=8, outer=50e9))


GIB = 1024.0**3
PRESETS: Mapping[str, Machine] = {
    m.name: m
    for m in (
        _tpu("tpu-v4", 275e12, 275e12, 32 * GIB, 1.2e12, Fabric(45e9, torus=3, wraps=4)),
        _tpu("tpu-v5e", 197e12, 394e12, 16 * GIB, 8.1e11, Fabric(45e9, torus=2, wraps=16)),
        _tpu("tpu-v5p", 459e12, 918e12, 95 * GIB, 2.765e12, Fabric(90e9, torus=3, wraps=4)),
        _tpu("tpu-v6e", 918e12, 1836e12, 32 * GIB, 1.64e12, Fabric(90e9, torus=2, wraps=16), mxu=256),
        _gpu("a100", 312e12, 624e12, 80e9, 2.039e12, 300e9),
        _gpu("h100", 989e12, 1979e12, 80e9, 3.35e12, 450e9),
        _gpu("h200", 989e12, 1979e12, 141e9, 4.8e12, 450e9),
        _gpu("b200", 2250e12, 4500e12, 192e9, 8.0e12, 900e9),
        Machine("cpu", Chip("cpu", {"float32": 1e11}, 16 * GIB, 2e10), Fabric(1e10, 5e-6)),
    )
}


def machine_named(machine: "str | Machine") -> Machine:
    """A preset by name, or the machine itself. Raises UnknownMachineError with the names there are."""
    if isinstance(machine, Machine):
        return machine
    if machine not in PRESETS:
        raise UnknownMachineError(
            f"no machine {machine!r}; presets are {', '.join(PRESETS)}; or pass a planner.Machine"
        )
    return PRESETS[machine]


def machine_of(mesh: Mesh | AbstractMesh) -> Machine:
    """The preset of a mesh's devices. Raises UnknownMachineError for devices without one, and for an AbstractMesh."""
    if isinstance(mesh, AbstractMesh):
        raise UnknownMachineError(f"an AbstractMesh has no devices: name a machine, one of {', '.join(PRESETS)}")
    device = mesh.devices.flat[0]
    kind = f"{device.platform} {device.device_kind}".lower()
    for name, sign in _SIGNS.items():
        if sign in kind:
            return PRESETS[name]
    raise UnknownMachineError(
        f"no preset for devices of kind {device.device_kind!r}: pass machine=planner.Machine(...)"
    )


_SIGNS: Mapping[str, str] = {
    "tpu-v5e": "v5 lite",
    "tpu-v5p": "tpu v5",
    "tpu-v6e": "v6 lite",
    "tpu-v4": "tpu v4",
    "a100": "a100",
    "h200": "h200",
    "h100": "h100",
    "b200": "b200",
    "cpu": "cpu",
}
