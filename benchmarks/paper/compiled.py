"""`python -m benchmarks.paper.compiled`: table 2's layouts and the planner's picks, compiled for 64 chips of TPU v4.

Each layout is at its best in the planner's integer program, and commanded as a plan is. The compiler is told what
`planner.compiler_options` says and chooses how arguments lie. Needs the extra `tpu-aot`; nothing runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.models import palm
from benchmarks.paper.latency import TABLE2, Point
from benchmarks.paper.rivals import only
from benchmarks.paper.words import describe
from passes.quantize import quantize_arguments, quantized
from planner import compiler_options, stages
from planner.audit.schedule import timer_of
from planner.audit.topology import topology_mesh
from planner.formulate import Formulation
from planner.make import make_setting
from planner.realise import Realised
from planner.report import seconds
from planner.solve import Problem, ready
from planner.stages import Setting
from planner.trace import Program, trace

SLICE = "v4:4x4x4"
HEADROOM = 0.96
"""The share of the memory that is planned for: predicted peaks are a few percent off."""


@dataclass(frozen=True)
class Case:
    """A point of table 2 on compile-only devices."""

    program: Program
    formulation: Formulation
    setting: Setting
    args: Any

    @classmethod
    def of(cls, p: Point) -> "Case":
        """Traced and formulated."""
        fun, args = getattr(palm, p.phase)(p.size, p.batch)
        if p.int8:
            args, fun = quantize_arguments(fun, *args), quantized(fun)
        setting = _setting()
        program = trace(fun, args, {}, setting.mesh, donate_argnums=(1,) if p.phase == "decode" else ())
        graph = stages.graph_of(program, setting, None, None)
        return cls(program, stages.formulation_of(program, graph, setting), setting, args)

    def compiled(self, problem: Problem, batch: int) -> tuple[str, str, str]:
        """What a layout is called, and its times as predicted, permutes and all, and along the schedule."""
        formulation, made = replace(self.formulation, problem=problem), ready(problem)
        solution = stages.solved(made, (), self.setting, None)
        solution, ordered = stages.with_orders(formulation, made, solution, self.setting)
        plan = stages.plan_of(self.program, formulation, solution, (), self.setting, "palm", ordered)
        mesh: Any = self.setting.mesh
        made = Realised(plan, self.program, mesh, compiler_options(mesh), auto_layouts=True)
        name = ", ".join(describe(self.formulation, solution.choice, batch))
        return name, seconds(plan.seconds), _along(made, self.args)


@cache
def _setting() -> Setting:
    mesh = topology_mesh(SLICE)
    return make_setting(mesh, None, HEADROOM * make_setting(mesh, None).machine.chip.usable_bytes)


def _along(made: Realised, args: Any) -> str:
    try:
        return seconds(timer_of(made.mesh).schedule(made.jitted.lower(*args).compile()).seconds)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return "out of memory"


def rows(p: Point) -> Iterator[tuple[str, ...]]:
    """The paper's layout, then the pick."""
    case = Case.of(p)
    named = only(case.formulation, p.ffn, p.attention, p.batch)
    for what, problem in (("the paper's", named), ("the planner's", case.formulation.problem)):
        yield what, *case.compiled(problem, p.batch)


def main() -> None:
    """Prints a table for each point."""
    for p in TABLE2:
        title = f"{p.phase}{' int8' if p.int8 else ''}, batch {p.batch}: measured {seconds(p.seconds)}"
        table = Table("whose", "layout", "predicted", "along the schedule", title=title, title_justify="left")
        for row in rows(p):
            table.add_row(*row)
        Console().print(table)


if __name__ == "__main__":
    main()
