"""Figure 1, tables 2 and 3: measured times of PaLM on TPU v4 beside what the planner predicts for its own choice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import inf, prod

import numpy as np
from jax.sharding import AbstractMesh, Mesh

from benchmarks.models import palm
from benchmarks.models.workloads import Workload
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

AXES = ("x", "y", "z")
CUBE = (4, 4, 4)
MESH = AbstractMesh(CUBE, AXES)


@dataclass(frozen=True)
class Point:
    """A measurement: context or prompt of 2048 tokens, weights in bf16 or int8, `seconds` per step on `torus` chips."""

    phase: str
    batch: int
    seconds: float
    source: str
    ffn: str = ""
    attention: str = ""
    int8: bool = False
    size: str = "540b"
    torus: tuple[int, int, int] = CUBE

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: two FLOPs a parameter and token, over the peak of all chips (section 2)."""
        tokens = self.batch * (2048 if self.phase == "prefill" else 1)
        return 2 * NOMINAL[self.size] * tokens / (prod(self.torus) * 275e12 * self.seconds)


NOMINAL = {"62b": 62e9, "540b": 540e9}
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
TABLE3 = (
    Point("prefill", 1, 0.16, "table 3", "WS 2D", "head", True, "62b", (2, 4, 2)),
    Point("decode", 32, 0.73 / 64, "table 3", "WS 2D", "batch", True, "62b", (2, 4, 2)),
    Point("prefill", 512, 20.2, "table 3", "WG XYZ", "batch", False, "62b", (4, 2, 4)),
    Point("decode", 512, 5.1 / 64, "table 3", "WS 2D", "batch", False, "62b", (2, 2, 2)),
)
"""PaLM 62B, on 16, 32 and 8 chips: no constant has seen them. Slices as in the paper's own code.

The figures were not read off a copy of the table: they were written down from memory, and their only check is that
times, chips and batches reproduce the utilisation that goes with them. Look them up before citing them.
"""


@dataclass(frozen=True)
class Prediction:
    """What the planner chose and what it should cost."""

    seconds: float
    bound: float
    ffn: str
    attention: str


def workload_of(p: Point) -> Workload:
    """PaLM with heads padded to 64 where it has 540B, as the paper ran it."""
    fun, args = getattr(palm, p.phase)(p.size, p.batch)
    return (quantized(fun), quantize_arguments(fun, *args)) if p.int8 else (fun, args)


def traced(p: Point, mesh: Mesh | AbstractMesh) -> Program:
    """The program for a mesh; a step of decode donates its cache."""
    fun, args = workload_of(p)
    return trace(fun, args, {}, mesh, donate_argnums=(1,) if p.phase == "decode" else ())


@cache
def program_of(p: Point) -> Program:
    """The program for the point's slice."""
    return traced(p, AbstractMesh(p.torus, AXES))


def full(machine: Machine, torus: tuple[int, ...] = CUBE) -> Setting:
    """The full cost model, within the chip's memory."""
    return Setting(AbstractMesh(torus, AXES), machine, machine.chip.usable_bytes)


def formula(torus: tuple[int, ...] = CUBE) -> Setting:
    """The paper's own formula."""
    machine = unpadded(PRESETS["tpu-v4"])
    limit = machine.chip.usable_bytes
    return Setting(AbstractMesh(torus, AXES), machine, limit, prices=PaperFormula(machine.chip))


def formulation_of(p: Point, setting: Setting) -> Formulation:
    """The integer program of a point, given only the model and the mesh."""
    program = program_of(p)
    return stages.formulation_of(program, stages.graph_of(program, setting, None, None), setting)


def predict(p: Point, setting: Setting) -> Prediction:
    """The planner's choice and its price; infinite where no plan that fits was found."""
    formulation = formulation_of(p, setting)
    solution = solve(formulation.problem)
    ffn, attention = describe(formulation, solution.choice, p.batch)
    seconds = solution.seconds if solution.status != "infeasible" else inf
    return Prediction(seconds, solution.bound, ffn, attention)


def rivals_of(p: Point, setting: Setting) -> Iterator[Rival]:
    """Every layout by name, each at its best."""
    return rivals(formulation_of(p, setting), p.batch)


def errors(points: Sequence[Point], setting: Setting) -> list[float]:
    """Signed relative error of each prediction."""
    return [predict(p, setting).seconds / p.seconds - 1 for p in points]


def with_constants(machine: Machine, flops_share: float, hbm_share: float, overhead: float) -> Machine:
    """The machine with other values for its three fitted constants."""
    return replace(machine, chip=replace(machine.chip, flops_share=flops_share, hbm_share=hbm_share, overhead=overhead))


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, without ties."""
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return 1 - 6 * float(((ranks[0] - ranks[1]) ** 2).sum()) / (len(a) * (len(a) ** 2 - 1))
