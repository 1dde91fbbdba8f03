"""Fits a chip's shares of peak FLOP/s and HBM bandwidth on the TPU compiler's own estimates of single matmuls.

`python -m benchmarks.rates` prints them for each chip beside those that the planner has. For chips without published
measurements of programs this is the best there is; tpu-v4 has them (`benchmarks.paper.calibrate`), and stands here to
show how far estimates and measurements lie apart. Needs the extra `tpu-aot`; nothing runs.
"""

from collections.abc import Mapping
from itertools import product
from math import hypot, log

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from planner import PRESETS
from planner.audit.schedule import timer_of
from planner.audit.topology import topology_mesh
from planner.cost.machine import Chip

Matmul = tuple[int, int, int]
SLICES = {"tpu-v4": "v4:2x2x1", "tpu-v5e": "v5e:2x2", "tpu-v5p": "v5p:2x2x1", "tpu-v6e": "v6e:2x2"}
SHARES = tuple(round(0.5 + 0.01 * i, 2) for i in range(51))
MATMULS: tuple[Matmul, ...] = (
    (2048, 8192, 8192),
    (8192, 8192, 8192),
    (8192, 4096, 1024),
    (32768, 1024, 4096),
    (512, 4608, 4608),
    (4096, 4608, 1152),
    (64, 8192, 8192),
    (16, 18432, 4608),
    (128, 8192, 28672),
    (8, 4096, 14336),
)
"""Rows, contracted, columns: six that compute, four that read a weight, as models of 8 to 540 billion have them."""


def estimates(topology: str) -> Mapping[Matmul, float]:
    """Seconds that the compiler of a topology expects of each matmul on one of its chips."""
    mesh = topology_mesh(topology)
    whole, timer = NamedSharding(mesh, PartitionSpec()), timer_of(mesh)

    def seconds(m: int, k: int, n: int) -> float:
        lhs, rhs = (jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=whole) for s in ((m, k), (k, n)))
        return timer.schedule(jax.jit(jnp.matmul, out_shardings=whole).lower(lhs, rhs).compile()).seconds

    return {case: seconds(*case) for case in MATMULS}


def predicted(chip: Chip, shares: tuple[float, float], case: Matmul) -> float:
    """Seconds of a matmul in bf16 at these shares of the chip's rates: the planner's roofline."""
    m, k, n = case
    flops, nbytes = 2 * m * k * n, 2 * (m * k + k * n + m * n)
    return hypot(flops / (shares[0] * chip.flops["bfloat16"]), nbytes / (shares[1] * chip.hbm_bandwidth))


def fit(chip: Chip, known: Mapping[Matmul, float]) -> tuple[float, float]:
    """The shares with the least squared log error."""
    return min(
        product(SHARES, SHARES),
        key=lambda shares: sum(log(predicted(chip, shares, case) / s) ** 2 for case, s in known.items()),
    )


def main() -> None:
    """Prints shares fitted on estimates beside the planner's."""
    table = Table("chip", "FLOP/s", "HBM", "planner's FLOP/s", "planner's HBM", "largest error")
    for name, topology in SLICES.items():
        chip, known = PRESETS[name].chip, estimates(topology)
        shares = fit(chip, known)
        worst = max((predicted(chip, shares, case) / s - 1 for case, s in known.items()), key=abs)
        values = (*shares, chip.flops_share, chip.hbm_share)
        table.add_row(name, *(f"{v:.2f}" for v in values), f"{worst:+.0%}")
    Console().print(table)


if __name__ == "__main__":
    main()
