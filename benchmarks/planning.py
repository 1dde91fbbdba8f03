"""Seconds of each planning stage and how good the answer is, at real sizes: `python -m benchmarks.planning`."""

from dataclasses import dataclass

from jax.sharding import AbstractMesh
from rich.console import Console
from rich.table import Table

import planner
from benchmarks.models import llama, mt_nlg, palm
from benchmarks.models.workloads import Workload
from planner.report import seconds


@dataclass(frozen=True)
class Case:
    """A workload on a mesh."""

    name: str
    workload: Workload
    mesh: tuple[int, ...]
    machine: str
    donated: tuple[str, ...] = ()


def cases() -> tuple[Case, ...]:
    """Decode, prefill and training at real sizes."""
    cache, state = ("cache",), ("params", "opt_state")
    return (
        Case("PaLM 540B decode, batch 512", palm.decode("540b", 512), (4, 4, 4), "tpu-v4", cache),
        Case("PaLM 540B decode, batch 512", palm.decode("540b", 512), (16, 4), "tpu-v4", cache),
        Case("PaLM 540B decode, batch 512", palm.decode("540b", 512), (8, 8), "tpu-v4", cache),
        Case("PaLM 540B decode, batch 64", palm.decode("540b", 64), (4, 4, 4), "tpu-v4", cache),
        Case("PaLM 540B prefill, batch 1", palm.prefill("540b", 1), (4, 4, 4), "tpu-v4"),
        Case("PaLM 540B prefill, batch 512", palm.prefill("540b", 512), (4, 4, 4), "tpu-v4"),
        Case("Llama 3 70B decode, batch 256", llama.decode("70b", 256), (4, 8), "tpu-v5e", cache),
        Case("MT-NLG 530B decode, batch 16", mt_nlg.decode("530b", 16), (4, 4, 4), "tpu-v4", cache),
        Case("Llama 3 8B training, batch 64", llama.train("8b", 64), (8, 8), "tpu-v5p", state),
        Case("Llama 3 70B training, batch 256", llama.train("70b", 256), (4, 4, 8), "tpu-v5p", state),
    )


STAGES = ("trace", "graph", "formulate", "known layouts", "solve", "write")


def main() -> None:
    """Plans every case and prints a line for each."""
    table = Table(title="Planning", title_justify="left")
    for name in ("workload", "mesh", *STAGES, "all in", "predicted", "gap", "peak GB"):
        table.add_column(name, justify="left" if name in ("workload", "mesh") else "right")
    for case in cases():
        fun, args = case.workload
        mesh = AbstractMesh(case.mesh, ("x", "y", "z")[: len(case.mesh)])
        plan = planner.make_plan(fun, *args, mesh=mesh, machine=case.machine, donate_argnames=case.donated)
        stages = [plan.timings[stage] for stage in STAGES]
        sizes = "×".join(map(str, case.mesh))
        times = [f"{t:.2f}" for t in (*stages, sum(stages))]
        table.add_row(
            case.name,
            f"{case.machine} {sizes}",
            *times,
            seconds(plan.seconds),
            f"{plan.gap:.1e}",
            f"{plan.peak_bytes / 1e9:.1f}",
        )
    Console(width=190).print(table)


if __name__ == "__main__":
    main()
