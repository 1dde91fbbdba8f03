"""Table 2 and Figure 1: measured times of PaLM 540B on 64 chips beside what the planner predicts for its own choice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jax.sharding import AbstractMesh

from benchmarks.models import palm
from benchmarks.paper.rivals import Rival, rivals
from benchmarks.paper.words import describe
from passes.quantize import quantize_arguments, quantized
from planner import stages
from planner.cost.hardware import PRESETS, Machine
from planner.cost.paper import PaperFormula, unpadded
from planner.formulate import Formulation
from planner.solve import solve
from planner.stages import Setting
from planner.trace import Program, trace

MESH = AbstractMesh((4, 4, 4), ("x", "y", "z"))


@dataclass(frozen=True)
class Point:
    """A measurement: context or prompt of 2048 tokens, weights in bf16 or int8, `seconds` per step."""

    phase: str
    batch: int
    seconds: float
    source: str
    ffn: str = ""
    attention: str = ""
    int8: bool = False


POINTS = (
    Point("decode", 64, 36.23e-3, "figure 1"),
    Point("decode", 128, 44.49e-3, "figure 1"),
    Point("decode", 256, 56.88e-3, "figure 1"),
    Point("decode", 512, 92.16e-3, "figure 1"),
    Point("decode", 1024, 182.9e-3, "figure 1"),
    Point("prefill", 1, 0.2876, "figure 1"),
    Point("prefill", 2, 0.539, "figure 1"),
    Point("prefill", 4, 1.073, "figure 1"),
    Point("prefill", 128, 29.48, "figure 1"),
    Point("prefill", 256, 43.50, "figure 1"),
    Point("prefill", 512, 83.62, "figure 1"),
)
TABLE2 = (
    Point("prefill", 512, 85.2, "table 2", "WG XYZ", "batch"),
    Point("decode", 512, 6.0 / 64, "table 2", "WS 2D", "batch"),
    Point("prefill", 1, 0.29, "table 2", "WS 2D", "head", int8=True),
    Point("decode", 64, 1.82 / 64, "table 2", "WS 2D", "batch", int8=True),
)


@dataclass(frozen=True)
class Prediction:
    """What the planner chose and what it should cost."""

    seconds: float
    bound: float
    ffn: str
    attention: str


@cache
def program_of(phase: str, batch: int, int8: bool = False) -> Program:
    """PaLM 540B with heads padded to 64, as the paper ran it."""
    fun, args = getattr(palm, phase)("540b", batch)
    if int8:
        args, fun = quantize_arguments(fun, *args), quantized(fun)
    return trace(fun, args, {}, MESH, donate_argnums=(1,) if phase == "decode" else ())


def full(machine: Machine) -> Setting:
    """The full cost model, within the chip's memory."""
    return Setting(MESH, machine, machine.chip.usable_bytes)


def formula() -> Setting:
    """The paper's own formula."""
    machine = unpadded(PRESETS["tpu-v4"])
    return Setting(MESH, machine, machine.chip.usable_bytes, prices=PaperFormula(machine.chip))


def formulation_of(phase: str, batch: int, setting: Setting, int8: bool = False) -> Formulation:
    """The integer program of a phase and batch, given only the model and the mesh."""
    program = program_of(phase, batch, int8)
    return stages.formulation_of(program, stages.graph_of(program, setting, None, None), setting)


def predict(phase: str, batch: int, setting: Setting, int8: bool = False) -> Prediction:
    """The planner's choice and its price."""
    formulation = formulation_of(phase, batch, setting, int8)
    solution = solve(formulation.problem)
    ffn, attention = describe(formulation, solution.choice, batch)
    return Prediction(solution.seconds, solution.bound, ffn, attention)


def rivals_of(p: Point, setting: Setting) -> Iterator[Rival]:
    """Every layout by name, each at its best."""
    return rivals(formulation_of(p.phase, p.batch, setting, p.int8), p.batch)


def errors(points: Sequence[Point], setting: Setting) -> list[float]:
    """Signed relative error of each prediction."""
    return [predict(p.phase, p.batch, setting, p.int8).seconds / p.seconds - 1 for p in points]


def with_constants(machine: Machine, flops_share: float, hbm_share: float, overhead: float) -> Machine:
    """The machine with other values for its three fitted constants."""
    return replace(machine, chip=replace(machine.chip, flops_share=flops_share, hbm_share=hbm_share, overhead=overhead))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return 1 - 6 * float(((ranks[0] - ranks[1]) ** 2).sum()) / (len(a) * (len(a) ** 2 - 1))
