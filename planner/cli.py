"""The command `meshplan`: plan, explain, why, compare, audit, machines, demo. Words in, plans and tables out."""

import inspect
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path as File
from typing import Annotated, Any

import typer
from jax.sharding import AbstractMesh
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from planner import ask, report
from planner.cost.hardware import PRESETS, Fabric, Machine, machine_named
from planner.errors import MeshError, PlanError
from planner.make import make_plan
from planner.plan import Plan
from planner.stages import Progress
from planner.workload import load_workload

GB = 1e9


class _Group(TyperGroup):
    """Shows what a user can mend as a line, not as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except PlanError as error:
            Console(stderr=True, soft_wrap=True).print(f"error: {error}", style="red", markup=False, highlight=False)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which mesh axis should split which dimension of every value of a JAX program.",
)


@app.command()
def plan(
    workload: Annotated[str, typer.Argument(help="MODULE:NAME of a callable that returns (fun, abstract_args).")],
    mesh: Annotated[str, typer.Option(help="Axes of the mesh, such as x=4,y=4,z=4.")],
    machine: Annotated[str, typer.Option(help="A preset, see `meshplan machines`, or a .toml or .json file.")],
    out: Annotated[File | None, typer.Option("-o", "--out", help="Where to write the plan.")] = None,
    donate: Annotated[list[str] | None, typer.Option(help="An argument that is donated, such as a cache.")] = None,
    memory_limit: Annotated[float | None, typer.Option(min=1e-3, help="GB per chip to use; all by default.")] = None,
    known: Annotated[bool, typer.Option("--known/--no-known", help="Score the known layouts too.")] = True,
    work: Annotated[float, typer.Option(min=0.0, help="Scales the solver's work limit.")] = 1.0,
    backend: Annotated[str, typer.Option(help="What solves integer programs: highs or cp-sat.")] = "highs",
) -> None:
    """Plan a workload: needs no devices and no weights."""
    axes = parse_mesh(mesh)
    fun, args = load_workload(workload)
    donated = _donated(fun, donate or ())
    if out is not None:
        _check_writable(out)
    limit = None if memory_limit is None else memory_limit * GB
    with _live() as progress:
        made = make_plan(
            fun,
            *args,
            mesh=axes,
            machine=machine,
            memory_limit=limit,
            known=known,
            work=work,
            backend=backend,
            progress=progress,
            **donated,
        )
    if out is not None:
        made.save(out)
    print(report.explain(made, _width()))


@app.command()
def explain(file: Annotated[File, typer.Argument(help="A plan file.")]) -> None:
    """Show a plan file."""
    print(report.explain(Plan.load(file), _width()))


@app.command()
def why(
    file: Annotated[File, typer.Argument(help="A plan file.")],
    value: Annotated[str, typer.Argument(help="An argument, `result 0`, or a source line, such as layers.py:55.")],
    spec: Annotated[str, typer.Argument(help="The spec it might have, such as \"P(None, ('x', 'y'))\".")],
    workload: Annotated[str, typer.Option(help="MODULE:NAME, as the plan was made of.")],
    machine: Annotated[str | None, typer.Option(help="The machine's file, where it is no preset.")] = None,
    donate: Annotated[list[str] | None, typer.Option(help="An argument that is donated, such as a cache.")] = None,
) -> None:
    """Say why a value does not have a spec: what that would cost, and where."""
    fun, args = load_workload(workload)
    donated = _donated(fun, donate or ())
    answer = ask.why(Plan.load(file), value, spec, fun, *args, machine=machine, **donated)
    print(report.answered(answer, _width()))


@app.command()
def compare(
    first: Annotated[File, typer.Argument(help="A plan file.")],
    second: Annotated[File, typer.Argument(help="Another one.")],
) -> None:
    """Show where two plan files differ."""
    print(report.compare(Plan.load(first), Plan.load(second), _width()))


@app.command()
def audit(
    workload: Annotated[str, typer.Argument(metavar="FILE", help="A plan file, or MODULE:NAME of a workload.")],
    of: Annotated[
        str | None, typer.Option("--workload", help="MODULE:NAME of the function that a plan is for.")
    ] = None,
    topology: Annotated[str | None, typer.Option(help="Compile for these TPUs, such as v4:4x4x4 or v5e:4x8.")] = None,
    mesh: Annotated[str | None, typer.Option(help="Axes of the mesh, such as x=16,y=4; a plan brings its own.")] = None,
    donate: Annotated[list[str] | None, typer.Option(help="An argument that is donated, such as a cache.")] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of bytes that may surprise.")] = 0.01,
    auto_layouts: Annotated[
        bool, typer.Option("--auto-layouts", help="Let the compiler lay out arguments and results, as in autoshard.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the account as JSON, for CI.")] = False,
) -> None:
    """Compile a planned workload, or one with shardings of its own, and account for every collective and byte.

    Exits with 1 on a surprise.
    """
    from planner.audit import command  # Compilers: nothing that other commands should load.

    axes = None if mesh is None else parse_mesh(mesh)
    with _live() as progress:
        progress("compile", float("inf"), 0.0)
        given = command.Given(topology, axes, tuple(donate or ()), tolerance, auto_layouts)
        found = command.account(load_workload, workload, of, given)
    print(found.to_json() if as_json else command.show(found, _width()), end="" if as_json else "\n")
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def machines(
    show: Annotated[str | None, typer.Option(help="A preset to print as a file, to make one's own from.")] = None,
) -> None:
    """List the machines there are presets of, or print one as a file for --machine."""
    if show is not None:
        print(machine_named(show).toml(), end="")
        return
    table = Table(title="Machines, per chip", title_justify="left", caption_justify="left")
    for name in ("name", "bf16 FLOP/s", "int8 FLOP/s", "memory", "memory bandwidth", "links"):
        table.add_column(name, justify="left" if name in ("name", "links") else "right")
    for preset in PRESETS.values():
        table.add_row(*_machine_row(preset))
    print(report.text(table, _width()))
    print("Dense peaks. Sources (scaling-book is jax-ml.github.io/scaling-book):")
    for preset in PRESETS.values():
        print(f"  {preset.name}: {preset.source}")


@app.command()
def demo() -> None:
    """Plan PaLM 540B for 64 chips, then run a tiny PaLM with its plan on 8 simulated devices."""
    from planner import demo as shown  # Simulated devices and model zoo: nothing that other commands should load.

    mesh = shown.simulated_mesh()
    with _live() as progress:
        large = shown.plan_palm(progress)
    print(report.explain(large, _width()))
    with _live() as progress:
        progress("tiny PaLM on 8 simulated devices", float("inf"), 0.0)
        run = shown.run_tiny(mesh)
    print(f"\nTiny PaLM, {shown.BATCH} sequences, on 8 simulated devices: {report.summary(run.plan)}")
    print(f"tokens without the plan, first sequence: {run.without[0].tolist()}")
    print(f"tokens with the plan, first sequence:    {run.planned[0].tolist()}")
    print(f"all {run.planned.size} tokens are {'the same' if run.same else 'NOT the same'}\n")
    print(report.text(shown.collectives_table(run), _width()))
    print("XLA writes a reduce_scatter as all-reduce and slice on CPU, and may merge or choose other collectives.")
    if not run.same:
        raise PlanError("the planned decode gave other tokens than jax.jit: please report this as a bug of meshplan")


def parse_mesh(text: str) -> AbstractMesh:
    """A mesh from words such as `x=4,y=2`. Raises MeshError."""
    pairs = re.findall(r"(?:^|,)\s*([A-Za-z_]\w*)=([1-9]\d*)\s*(?=,|$)", text)
    if len(pairs) != text.count(",") + 1:
        raise MeshError(f"--mesh {text!r}: write NAME=SIZE for each axis, with commas between, such as x=4,y=4,z=4")
    names = tuple(name for name, _ in pairs)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise MeshError(f"--mesh {text!r}: axis {twice[0]!r} is there twice; give each axis a name of its own")
    return AbstractMesh(tuple(int(size) for _, size in pairs), names)


def _donated(fun: Callable, names: Sequence[str]) -> dict[str, Any]:
    if not names:
        return {}
    there = list(inspect.signature(fun).parameters)
    for name in names:
        if name not in there:
            raise PlanError(f"--donate {name}: no such argument; the function has {', '.join(there)}")
    return {"donate_argnames": tuple(names)}


def _check_writable(out: File) -> None:
    """Before the solver works for nothing."""
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise PlanError(f"-o {out}: cannot write there; name a file in a folder that exists and can be written")


@contextmanager
def _live() -> Iterator[Progress]:
    """Progress on stderr: a line that changes on a terminal, one line a stage elsewhere."""
    console, seen = Console(stderr=True, highlight=False), set()
    with console.status("meshplan") as status:

        def show(stage: str, seconds: float, bound: float) -> None:
            status.update(progress_line(stage, seconds, bound))
            if not console.is_terminal and stage not in seen:
                seen.add(stage)
                console.print(progress_line(stage, seconds, bound), markup=False)

        yield show


def progress_line(stage: str, seconds: float, bound: float) -> str:
    """Where planning stands, such as `prices: best 60.1 ms, proven bound 59.7 ms`."""
    best = f"best {report.seconds(seconds)}" if seconds < float("inf") else ""
    proven = f"proven bound {report.seconds(bound)}" if 0 < bound < float("inf") else ""
    return ": ".join(filter(None, (stage, ", ".join(filter(None, (best, proven))))))


def _machine_row(machine: Machine) -> tuple[str, ...]:
    chip = machine.chip
    rates = (f"{chip.flops[t] / 1e12:g} T" if t in chip.flops else "-" for t in ("bfloat16", "int8"))
    memory = (f"{chip.hbm_bytes / GB:.3g} GB", f"{chip.hbm_bandwidth / GB:.4g} GB/s")
    return machine.name, *rates, *memory, _links(machine.fabric)


def _links(fabric: Fabric) -> str:
    link = f"{fabric.link / GB:g} GB/s"
    beyond = f", {fabric.outer / GB:g} GB/s beyond {fabric.node}" if fabric.outer else ""
    if fabric.torus:
        return f"{fabric.torus}-D torus, {link} a link and direction, wraps at multiples of {fabric.wraps}{beyond}"
    return f"switch, {link} a device{beyond}"


def _width() -> int:
    """Columns of the terminal, but no fewer than tables need; report.WIDTH where there is no terminal."""
    return max(110, shutil.get_terminal_size((report.WIDTH, 24)).columns)
