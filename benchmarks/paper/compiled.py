"""`python -m benchmarks.paper.compiled`: table 2's layouts and the planner's picks, compiled for 64 chips of TPU v4.

Each layout is at its best in the planner's integer program, and commanded as a plan is. The compiler is told what
`planner.compiler_options` says and chooses how arguments lie. Needs the extra `tpu-aot`; nothing runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.audit import HEADROOM, attempted
from benchmarks.paper.latency import TABLE2, Point, traced, workload_of
from benchmarks.paper.rivals import only
from benchmarks.paper.words import describe
from planner import PRESETS, compiler_options, stages
from planner.audit.schedule import timer_of
from planner.audit.topology import topology_mesh
from planner.formulate import Formulation
from planner.make import make_setting
from planner.realise import Realised
from planner.report import seconds
from planner.solve import Problem, ready
from planner.stages import Setting
from planner.trace import Program

SLICE, MACHINE = "v4:4x4x4", "tpu-v4"


@dataclass(frozen=True)
class Case:
    """A point of table 2 on compile-only devices."""

    point: Point
    program: Program
    formulation: Formulation
    setting: Setting

    @classmethod
    def of(cls, p: Point) -> "Case":
        """Traced and formulated."""
        setting = make_setting(topology_mesh(SLICE), None, HEADROOM * PRESETS[MACHINE].chip.usable_bytes)
        program = traced(p, setting.mesh)
        graph = stages.graph_of(program, setting, None, None)
        return cls(p, program, stages.formulation_of(program, graph, setting), setting)

    def compiled(self, problem: Problem) -> tuple[str, str, str]:
        """What a layout is called, and its times as predicted, permutes and all, and along the schedule."""
        formulation, made = replace(self.formulation, problem=problem), ready(problem)
        solution = stages.solved(made, (), self.setting, None)
        solution, ordered = stages.with_orders(formulation, made, solution, self.setting)
        plan = stages.plan_of(self.program, formulation, solution, (), self.setting, "palm", ordered)
        name = ", ".join(describe(formulation, solution.choice, self.point.batch))
        mesh: Any = self.setting.mesh
        layout = Realised(plan, self.program, mesh, compiler_options(mesh), auto_layouts=True)
        return name, seconds(plan.seconds), attempted(lambda: self.along(layout))

    def along(self, layout: Realised) -> float:
        """Seconds along the compiled schedule."""
        made = layout.jitted.lower(*workload_of(self.point)[1]).compile()
        return timer_of(layout.mesh).schedule(made).seconds


def rows(p: Point) -> Iterator[tuple[str, ...]]:
    """The paper's layout, then the pick."""
    case = Case.of(p)
    named = only(case.formulation, p.ffn, p.attention, p.batch)
    for whose, problem in (("the paper's", named), ("the planner's", case.formulation.problem)):
        yield whose, *case.compiled(problem)


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
