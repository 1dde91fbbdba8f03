"""The machines there are presets of: numbers, each with its source. Dense peaks, without sparsity.

"scaling-book" is jax-ml.github.io/scaling-book. Hops between TPUs: about 1 µs (its chapter "sharding"). Hops of GPUs:
NCCL's tuning table (src/graph/tuning.cc: NVLink 0.5 to 3.4 µs, a tree over the network 5 µs). Hops over a data-center
network: an assumption, 10 µs. What programs do not get of a TPU's
memory is the compiler's word ("exceeds available HBM (30.75G)"), libtpu 0.0.42.
"""

from collections.abc import Mapping

from planner.cost.fabric import Fabric
from planner.cost.machine import Chip, Machine

GIB, MIB = 1024.0**3, 1024.0**2
BOOK = 'scaling-book, "tpus"'

FITTED = (0.75, 0.73, 1.5e-6)
"""flops_share, hbm_share and overhead of TPUs: fitted on tpu-v4 by benchmarks/paper/calibrate.py, on the 540B bf16
points of figure 1 in Pope et al. 2022. Other TPUs have the overhead of it, and where the TPU compiler knows them shares
of their own (`ESTIMATED`). The CPU stands at its datasheet."""

ESTIMATED = {"tpu-v5e": (0.88, 0.79), "tpu-v5p": (0.92, 0.64), "tpu-v6e": (0.69, 0.83)}
"""flops_share and hbm_share fitted by benchmarks/rates.py on what libtpu 0.0.42 expects of ten matmuls. For tpu-v4 that
would be 0.83 and 0.76."""

FITTED_GPU = (0.68, 0.65, 2e-6)
"""The same of GPUs: fitted on ten matmuls of one H200 (benchmarks/gpu.py), and taken for the other GPUs too."""


USABLE = {"tpu-v3": 15.48, "tpu-v4": 30.75, "tpu-v5e": 15.75, "tpu-v5p": 95.74, "tpu-v6e": 31.25}
"""GiB that the TPU compiler lets a program have."""

AHEAD = {"tpu-v4": 0.5, "tpu-v5e": 0.8}
"""The share of gathers in loops that run ahead and hide, as libtpu 0.0.42 schedules them: a training step of Llama 3 8B
on 8×8 chips of v5e; PaLM 540B's prefill of 512 sequences on a v4 cube (0.52; all of 128 sequences, 0.76 of 64), where
the compiler is told to (`planner.compiler_options`). Of its other machines it hides none."""

ON_CHIP = {"tpu-v5e": 112, "tpu-v5p": 48, "tpu-v6e": 96}
"""MiB of operands that libtpu 0.0.42 fetches to vector memory, which has 128 and on v5p 64, before a ring's first
product. On v4 it fetches them to a common memory of 128, from which products take about as long as from HBM."""

VECTOR = 4
"""Bytes of an element in a TPU's vector unit. libtpu 0.0.42 expects of `a + 2 * b` in bf16 what moving float32 takes at
0.87 (v5p) to 1.00 (v6e) of the memory's bandwidth."""


BF16_PASSES = (3.0, 6.0)
"""A TPU multiplies float32 in bfloat16, once unless it is told more (`jax.lax.Precision`). libtpu 0.0.42 expects 3.1 to
3.5 and 6.1 to 6.8 times the time at the peak of bfloat16. GPUs take tensorfloat32, but for the highest precision."""


SLOW = (4.0, 10.0)
"""What libtpu 0.0.42 expects of matmuls of 16 and of 32 bit integers on v4 and v5e, over the time of bfloat16."""


def _tpu(
    name: str, bf16: float, int8: float, hbm: float, bandwidth: float, fabric: Fabric, source: str, mxu: int = 128
) -> Machine:
    flops = {"bfloat16": bf16, "float16": bf16, "float32": bf16, "int8": int8, "uint8": int8}
    flops |= {"int16": bf16 / SLOW[0], "uint16": bf16 / SLOW[0], "int32": bf16 / SLOW[1], "uint32": bf16 / SLOW[1]}
    free, ahead = USABLE[name] * GIB, AHEAD.get(name, 0.0)
    shares = *ESTIMATED.get(name, FITTED[:2]), FITTED[2]
    own = ON_CHIP.get(name, 0) * MIB
    chip = Chip(name, flops, hbm, bandwidth, (8, 128), mxu, *shares, hbm - free, ahead, VECTOR, BF16_PASSES, True, own)
    return Machine(name, chip, fabric, source)


def _gpu(
    name: str, bf16: float, int8: float, fp32: float, hbm: float, bandwidth: float, egress: float, nic: float
) -> Machine:
    flops = {"bfloat16": bf16, "float16": bf16, "int8": int8, "float32": bf16 / 2}
    if name != "a100":
        flops["float8_e4m3fn"] = int8
    fabric = Fabric(egress, 2e-6, node=8, outer=nic, outer_hop=5e-6)
    source = f"NVIDIA {name.upper()} datasheet (SXM); nodes of 8 with {nic * 8e-9:g} Gb/s InfiniBand per GPU, as in DGX"
    chip = Chip(name, flops, hbm, bandwidth, (1, 1), 1, *FITTED_GPU, passes=(1.0, flops["float32"] / fp32))
    return Machine(name, chip, fabric, source)


def _cube(link: float, chips: int) -> Fabric:
    return Fabric(link, torus=3, wraps=4, node=chips, outer=6.25e9, cubes=True, one_ring=True)


def _plane(link: float, outer: float) -> Fabric:
    return Fabric(link, torus=2, wraps=16, node=256, outer=outer, one_ring=True)


PRESETS: Mapping[str, Machine] = {
    m.name: m
    for m in (
        _tpu(
            "tpu-v3",  # JAX calls a core a device: half a chip, and a core's half of the chip's links
            61.5e12,
            61.5e12,
            16 * GIB,
            4.5e11,
            Fabric(50e9, torus=2, wraps=32, node=2048, outer=3.125e9, one_ring=True),
            f"per core, half a chip: cloud.google.com/tpu/docs/v3; links, network: {BOOK}",
        ),
        _tpu(
            "tpu-v4",
            275e12,
            275e12,
            32 * GIB,
            1.2e12,
            _cube(45e9, 4096),
            f"cloud.google.com/tpu/docs/v4 and {BOOK}",
        ),
        _tpu("tpu-v5e", 197e12, 394e12, 16 * GIB, 8.1e11, _plane(45e9, 3.125e9), BOOK),
        _tpu(
            "tpu-v5p",
            459e12,
            918e12,
            96 * GIB,
            2.765e12,
            _cube(90e9, 8960),
            f"cloud.google.com/tpu/docs/v5p and {BOOK}",
        ),
        _tpu(
            "tpu-v6e",
            918e12,
            1836e12,
            32 * GIB,
            1.64e12,
            _plane(90e9, 12.5e9),
            f"cloud.google.com/tpu/docs/v6e and {BOOK}",
            mxu=256,
        ),
        _gpu("a100", 312e12, 624e12, 19.5e12, 80e9, 2.039e12, 300e9, 25e9),
        _gpu("h100", 989e12, 1979e12, 67e12, 80e9, 3.35e12, 450e9, 50e9),
        _gpu("h200", 989e12, 1979e12, 67e12, 141e9, 4.8e12, 450e9, 50e9),
        _gpu("b200", 2250e12, 4500e12, 75e12, 192e9, 8.0e12, 900e9, 50e9),
        Machine(
            "cpu",
            Chip("cpu", {"float32": 1e11}, 16 * GIB, 2e10),
            Fabric(1e10, 5e-6),
            "a rough guess, not measured: for simulated devices, where only the shape of a plan counts",
        ),
    )
}
