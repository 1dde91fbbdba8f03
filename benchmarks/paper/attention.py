"""Sections 3.3 and 3.4: what the parallel block saves, and when attention is split over the batch."""

from dataclasses import replace

from benchmarks.models import palm
from benchmarks.models.workloads import Family
from benchmarks.paper.latency import MESH
from benchmarks.paper.words import describe
from planner import stages
from planner.solve import solve
from planner.stages import Setting
from planner.trace import trace

VARIANTS = Family(
    {"parallel": palm.palm_540b, "serial": replace(palm.palm_540b, block="serial")},
    default="parallel",
)
SERIAL_OVER_PARALLEL = 1.14
"""The paper's measurement: decode, 64 chips, batch 512, 2-D weight-stationary (section 4.3)."""
SWITCH_BATCH = 64
CONTEXTS = (16, 128, 256, 512, 2048, 32768)


def decode_step(variant: str, batch: int, context: int, setting: Setting) -> tuple[float, str]:
    """Predicted seconds of a decode step and the dim over which attention is split."""
    fun, args = VARIANTS.decode(variant, batch, context)
    program = trace(fun, args, {}, MESH, donate_argnames=("cache",))
    formulation = stages.formulation_of(program, stages.graph_of(program, setting, None, None), setting)
    solution = solve(formulation.problem)
    if solution.status == "infeasible":
        return float("inf"), f"does not fit by {solution.excess / 1e9:.1f} GB"
    return solution.seconds, describe(formulation, solution.choice, batch)[1]


def serial_over_parallel(setting: Setting, batch: int = 512, context: int = 2048) -> float:
    """How much longer a decode step takes when attention and MLP run one after the other."""
    serial, parallel = (decode_step(variant, batch, context, setting)[0] for variant in ("serial", "parallel"))
    return serial / parallel
