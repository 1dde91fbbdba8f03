"""What a plan answers, kept with it so that more can be asked: the same program, mesh and machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from planner import stages
from planner.formulate import Formulation
from planner.plan import Plan
from planner.solve import Ready, Solution, ready
from planner.stages import Setting
from planner.trace import Program


@dataclass(eq=False)
class Question:
    """A program and what it is planned for. Its integer program is made when it is first asked for, and kept.

    Attributes:
        ins: Specs that arguments must have.
        outs: Specs that results must have.
        function: What to call the function.
        choice: The strategies of the plan; none for a plan from a file.
    """

    program: Program
    setting: Setting
    ins: Any
    outs: Any
    function: str
    choice: Sequence[int] = ()

    @cached_property
    def formulation(self) -> Formulation:
        """The integer program, and what its numbers stand for."""
        graph = stages.graph_of(self.program, self.setting, self.ins, self.outs)
        return stages.formulation_of(self.program, graph, self.setting)

    @cached_property
    def ready(self) -> Ready:
        """Its numbers, made ready."""
        return ready(self.formulation.problem)

    def plan_of(self, solution: Solution) -> Plan:
        """The plan of a solution."""
        return stages.plan_of(self.program, self.formulation, solution, (), self.setting, self.function)
