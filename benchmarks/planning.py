"""Seconds of each planning stage and how good the answer is, at real sizes: `python -m benchmarks.planning [SET …]`.

Sets: `scanned` (decode, prefill and training), `unrolled` (118 layers), `growth` (1 to 128 unrolled layers, folded
where that is done), `unfolded` (the same, never folded), `alike` (training, where equal layers may differ), `experts`
(some 100,000 equations).
"""

import resource
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Annotated

import numpy as np
import typer
from jax.sharding import AbstractMesh
from rich.console import Console
from rich.table import Table

import planner
from benchmarks.models import llama, moe, mt_nlg, palm
from benchmarks.models.workloads import Family, Workload
from planner.errors import DoesNotFitError
from planner.report import seconds
from planner.solve import base
from planner.solve.marginals import distinct, variables
from planner.solve.simplify import DENSE, simplify


@dataclass(frozen=True)
class Case:
    """A workload on a mesh, or what makes one."""

    name: str
    workload: Workload
    mesh: tuple[int, ...]
    machine: str
    donated: tuple[str, ...] = ()
    folded: bool = True


def cases() -> tuple[Case, ...]:
    """Decode, prefill and training at real sizes, scanned."""
    cache, state = ("cache",), ("params", "opt_state")
    return (
        Case("PaLM 540B decode, batch 512", palm.decode("540b", 512), (4, 4, 4), "tpu-v4", cache),
        Case("PaLM 540B decode, batch 512", palm.decode("540b", 512), (16, 4), "tpu-v4", cache),
        Case("PaLM 540B decode, batch 512", palm.decode("540b", 512), (8, 8), "tpu-v4", cache),
        Case("PaLM 540B decode, batch 64", palm.decode("540b", 64), (4, 4, 4), "tpu-v4", cache),
        Case("PaLM 540B prefill, batch 1", palm.prefill("540b", 1), (4, 4, 4), "tpu-v4"),
        Case("PaLM 540B prefill, batch 1", palm.prefill("540b", 1), (16, 4), "tpu-v4"),
        Case("PaLM 540B prefill, batch 1", palm.prefill("540b", 1), (8, 8), "tpu-v4"),
        Case("PaLM 540B prefill, batch 512", palm.prefill("540b", 512), (4, 4, 4), "tpu-v4"),
        Case("PaLM 540B prefill, batch 512", palm.prefill("540b", 512), (16, 4), "tpu-v4"),
        Case("PaLM 540B prefill, batch 512", palm.prefill("540b", 512), (8, 8), "tpu-v4"),
        Case("Llama 3 70B decode, batch 256", llama.decode("70b", 256), (4, 8), "tpu-v5e", cache),
        Case("MT-NLG 530B decode, batch 16", mt_nlg.decode("530b", 16), (4, 4, 4), "tpu-v4", cache),
        Case("Llama 3 8B training, batch 64", llama.train("8b", 64), (8, 8), "tpu-v5p", state),
        Case("Llama 3 70B training, batch 256", llama.train("70b", 256), (8, 8), "tpu-v5p", state),
        Case("Llama 3 70B training, batch 256", llama.train("70b", 256), (4, 4, 8), "tpu-v5p", state),
        Case("Llama 3 405B training, batch 256", llama.train("405b", 256), (8, 8), "tpu-v5p", state),
        Case("Llama 3 405B training, batch 256", llama.train("405b", 256), (4, 4, 8), "tpu-v5p", state),
    )


def unrolled(layers: int) -> Case:
    """PaLM 540B with so many layers, a tuple of them instead of a scan."""
    family = Family({"some": replace(palm.palm_540b, layers=layers)}, default="some")
    workload = family.decode("some", 512, scan=False)
    return Case(f"PaLM decode, {layers} layers unrolled", workload, (4, 4, 4), "tpu-v4", ("cache",))


def experts(layers: int) -> Case:
    """A mixture of 64 experts, each called by a loop in Python: some 730 equations a layer."""
    return Case(f"64 experts unrolled, {layers} layers", moe.unrolled(layers), (8, 8), "tpu-v5p")


def training(layers: int) -> Case:
    """Llama 3 8B with so many layers, unrolled, trained."""
    sizes = {"some": replace(llama.FAMILY.config("8b"), layers=layers)}
    workload = Family(sizes, default="some").train("some", 64, scan=False)
    return Case(f"Llama 3 8B training, {layers} layers unrolled", workload, (8, 8), "tpu-v5p", ("params", "opt_state"))


SETS: dict[str, Callable[[], Iterable[Case]]] = {
    "scanned": cases,
    "growth": lambda: (unrolled(1 << i) for i in range(8)),
    "unfolded": lambda: (replace(unrolled(1 << i), folded=False) for i in range(8)),
    "alike": lambda: [training(32)],
    "unrolled": lambda: [unrolled(118)],
    "experts": lambda: [experts(136)],
}
STAGES = ("trace", "graph", "formulate", "presolve", "known layouts", "solve", "order", "write")
COLUMNS = (
    "workload",
    "mesh",
    "nodes",
    "variables",
    "left",
    *STAGES,
    "after trace",
    "predicted",
    "gap",
    "alike",
    "RSS GB",
)


def sizes(plan: planner.Plan) -> tuple[int, int, int]:
    """Nodes, variables of the integer program as it is, and of what presolve leaves of it where memory is no object."""
    made = plan._question.ready
    problem = made.problem
    before = sum(map(len, problem.cost)) + sum(e.cost.size for e in problem.edges)
    net = simplify(made.left({}).priced(np.zeros(made.memory.rows)), 1 << 16, dominance=False)
    return len(problem.cost), before, variables(simplify(net, 1 << 20) if distinct(net) <= DENSE else net)


def row(case: Case) -> tuple[str, ...]:
    """A line of the table."""
    fun, args = case.workload
    mesh = AbstractMesh(case.mesh, ("x", "y", "z")[: len(case.mesh)])
    base.SMALL = base.SMALL if case.folded else base.LARGE  # a process of its own: nothing else is planned in it
    try:
        plan = planner.make_plan(fun, *args, mesh=mesh, machine=case.machine, donate_argnames=case.donated or None)
    except DoesNotFitError as error:
        found = f"nothing fits: {error.excess / 1e9:.0f} GB too much"
        return (
            case.name,
            f"{case.machine} {'×'.join(map(str, case.mesh))}",
            *[""] * (len(COLUMNS) - 6),
            found,
            "",
            "",
            "",
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # before anything is formulated once more
    stages = [sum(t for name, t in plan.timings.items() if name == stage) for stage in STAGES]
    total = sum(plan.timings.values()) - plan.timings["trace"]
    alike = "" if plan.alike is None else f"{plan.alike / plan.seconds:.3%}"
    return (
        case.name,
        f"{case.machine} {'×'.join(map(str, case.mesh))}",
        *(f"{n:,}" for n in sizes(plan)),
        *(f"{t:.2f}" for t in (*stages, total)),
        seconds(plan.seconds),
        f"{plan.gap:.1e}",
        alike,
        f"{peak:.1f}",
    )


def main(which: Annotated[list[str] | None, typer.Argument(help="Sets of cases; all by default.")] = None) -> None:
    """Plans every case in a process of its own, and prints a line for each."""
    table = Table(title="Planning: seconds", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("workload", "mesh") else "right")
    for name in which or list(SETS):
        for case in SETS[name]():
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                table.add_row(*pool.submit(_row_of, name, case.name, case.mesh).result())
    Console(width=250).print(table)


def _row_of(which: str, name: str, mesh: tuple[int, ...]) -> tuple[str, ...]:
    return next(row(case) for case in SETS[which]() if (case.name, case.mesh) == (name, mesh))


if __name__ == "__main__":
    typer.run(main)
