"""Other people's models, planned: `python -m benchmarks.zoo`.

Prints, for each model at its real width, how many equations it has and what share of them, and of the predicted time,
has a rule of ours, Shardy's or none; seconds of planning; the predicted time of the plan and of known layouts in the
same cost model; and whether the tiny model, planned for 8 CPU devices, gives the values and gradients that it gives
unplanned.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

import jax
import numpy as np
import typer
from jax.sharding import AbstractMesh, Mesh
from rich.console import Console
from rich.table import Table

from benchmarks.zoo import hugging_face, ours, tunix
from benchmarks.zoo.entry import Entry
from planner import Plan, make_plan, testing
from planner.build import build_graph
from planner.trace import trace
from planner.units import seconds

MESH, MACHINE = AbstractMesh((4, 4), ("x", "y")), "tpu-v5p"
KNOWN = ("data parallel", "FSDP", "Megatron 1-D")
ORIGINS = ("ours", "shardy", "none")
COLUMNS = (
    "model",
    "from",
    "equations",
    "% ours/Shardy/none",
    "% of time Shardy/none",
    "planning s",
    "plan",
    *KNOWN,
    "equal",
)
QUICK = {"xla_backend_optimization_level": 0}


def origins(entry: Entry, layers: int) -> Mapping[str, str]:
    """Whose rule each equation has, by its path."""
    fun, args = entry.real(layers)
    program = trace(fun, args, {}, MESH, donate_argnums=entry.donated)
    graph = build_graph(program.closed, program.names, program.ties(), mesh=dict(MESH.shape))
    return {"/".join(map(str, n.path)): n.origin for n in graph.nodes if n.role == "op"}


def shares(plan: Plan, found: Mapping[str, str]) -> tuple[str, str]:
    """Percent of equations, and of predicted time, by whose rule they have."""
    counts = Counter(found.values())
    spent: dict[str, float] = dict.fromkeys(ORIGINS, 0.0)
    for op in plan.operations:
        spent[found.get(op.path, "ours")] += op.seconds
    equations = [f"{100 * counts[origin] / len(found):.1f}" for origin in ORIGINS]
    times = [f"{100 * spent[origin] / plan.seconds:.2g}" for origin in ORIGINS[1:]]
    return "/".join(equations), "/".join(times)


def equal(entry: Entry) -> str:
    """Whether values and gradients of the tiny model are those of the unplanned one."""
    fun, args = entry.tiny()
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(2, 4), ("x", "y"))
    try:
        testing.assert_equivalent(fun, *args, mesh=mesh, machine=testing.EAGER, grad=True, compiler_options=QUICK)
    except AssertionError as error:
        return f"NO: {str(error).strip()[:200]}"
    return "yes"


def row(entry: Entry, layers: int) -> tuple[str, ...]:
    """A line of the table; a model that cannot be traced, planned or run says why."""
    try:
        return entry.name, entry.package, *planned(entry, layers), equal(entry)
    except Exception as error:
        return entry.name, entry.package, f"{type(error).__name__}: {str(error)[:200]}"


def planned(entry: Entry, layers: int) -> tuple[str, ...]:
    """What the table says of a model's plan."""
    fun, args = entry.real(layers)
    start = time.perf_counter()
    plan = make_plan(fun, *args, mesh=MESH, machine=MACHINE, donate_argnums=entry.donated)
    spent = time.perf_counter() - start
    known = {k.name: k.seconds for k in plan.known if k.seconds is not None}
    found = origins(entry, layers)
    times = [seconds(known[name]) if name in known else "-" for name in KNOWN]
    return str(len(found)), *shares(plan, found), f"{spent:.1f}", seconds(plan.seconds), *times


def main(
    only: Annotated[str, typer.Option(help="Part of the names of the models to plan.")] = "",
    layers: Annotated[int, typer.Option(help="Layers at the real width; the small models have their own number.")] = 4,
) -> None:
    """Plans every model and prints a line for each."""
    jax.config.update("jax_num_cpu_devices", 8)
    table = Table(title=f"Zoo: {layers} layers at real width on {MACHINE} {MESH.axis_sizes}", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("model", "from") else "right")
    console = Console(width=200)
    for entry in (*hugging_face.entries(), *tunix.entries(), *ours.entries()):
        if only.lower() in entry.name.lower():
            line = row(entry, layers)
            table.add_row(*line)
            console.print(" | ".join(line))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
