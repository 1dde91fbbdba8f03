"""`python -m benchmarks.audit [names]`: the real TPU compiler's programs beside their plans, without a TPU.

For each workload: collectives as planned and as compiled, peak memory, time. Then the time along the compiled schedule
of our plan, of no plan, and of layouts that people know, each at its best and written as sharding constraints. In all
of them the compiler is told to run collectives beside work (`planner.compiler_options`), and chooses how arguments lie
in memory (`auto_layouts`); in two columns ours is compiled where it is not told, or may not choose. Needs the extra
`tpu-aot`. A case is printed as soon as it is finished, all of them together at the end. Names, or parts of whole words
such as `"prefill, batch 1"`, pick cases; several pick what any of them picks.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

import planner
from benchmarks.models import llama, mt_nlg, palm
from benchmarks.models.workloads import Workload
from planner import stages
from planner.audit.record import Audit
from planner.audit.schedule import timer_of
from planner.audit.topology import parse, topology_mesh
from planner.errors import PlanError
from planner.make import make_setting
from planner.realise import Realised
from planner.report import seconds
from planner.solve import ready
from planner.trace import trace

LAYOUTS = {"Megatron": "Megatron 1-D", "FSDP": "FSDP", "paper's 2-D": "2-D weight-stationary"}
LIMITS = {"v4": 30.75 * 2**30, "v5e": 15.75 * 2**30}
"""Bytes of memory that programs can have: what libtpu's out-of-memory errors say."""
HEADROOM = 0.94
"""The share of it that is planned for: predicted peaks are a few percent off."""
TRAINING = 0.7
"""The same of training: copies of donated weights into the layout that a loop wants are not predicted."""


@dataclass(frozen=True)
class Case:
    """A workload on a topology.

    Attributes:
        donated: Argument numbers.
        share: Of the memory, that is planned for.
        auto_layouts: The compiler chooses how arguments lie; in training it then copies stacks of weights twice.
    """

    name: str
    topology: str
    workload: Callable[[], Workload]
    donated: tuple[int, ...] = ()
    share: float = HEADROOM
    auto_layouts: bool = True

    @property
    def mesh(self) -> Mesh:
        """Compile-only devices."""
        return topology_mesh(self.topology)

    @property
    def limit(self) -> float:
        """Bytes per chip."""
        return self.share * LIMITS[parse(self.topology)[0]]

    @property
    def told(self) -> dict[str, str | bool]:
        """What the compiler is told."""
        return planner.compiler_options(self.mesh)


CASES = (
    Case("PaLM 540B decode, batch 64", "v4:4x4x4", palm.decode_540b_b64, (1,)),
    Case("PaLM 540B decode, batch 512", "v4:4x4x4", palm.decode_540b_b512, (1,)),
    Case("PaLM 540B prefill, batch 1", "v4:4x4x4", palm.prefill_540b_b1),
    Case("PaLM 540B prefill, batch 64", "v4:4x4x4", partial(palm.prefill, "540b", 64)),
    Case("PaLM 540B prefill, batch 512", "v4:4x4x4", palm.prefill_540b_b512),
    Case("PaLM 62B decode, batch 512", "v4:2x2x2", palm.decode_62b, (1,)),
    Case("Llama 3 70B decode, batch 256", "v5e:4x8", lambda: llama.decode("70b", 256), (1,)),
    Case("Llama 3 70B prefill, batch 16", "v5e:4x8", lambda: llama.prefill("70b", 16)),
    Case("MT-NLG 530B decode, batch 16", "v4:4x4x4", lambda: mt_nlg.decode("530b", 16), (1,)),
    Case("Llama 3 8B training, batch 64", "v5e:8x8", lambda: llama.train("8b", 64), (0, 1), TRAINING, False),
)


def audited(case: Case, **changed: Any) -> Audit:
    """The case planned, compiled and audited; with `auto_layouts` or `compiler_options` other than its own."""
    fun, args = case.workload()
    mesh, donated = case.mesh, case.donated or None
    options: dict[str, Any] = {"compiler_options": case.told, "auto_layouts": case.auto_layouts} | changed
    planned = planner.autoshard(fun, mesh=mesh, donate_argnums=donated, memory_limit=case.limit, **options)
    return planner.audit(planned.plan(*args), planned.lower(*args).compile(), mesh)


def unplanned(case: Case) -> float:
    """Seconds without a plan: inputs and state split over the batch, weights whole, propagation does the rest."""
    fun, args = case.workload()
    mesh = case.mesh

    def put(path: Any, leaf: Any) -> Any:
        batch = {"k": 1, "v": 1}.get(str(getattr(path[-1], "key", "")), 0 if len(path) == 1 else None)
        spec = [None] * len(leaf.shape)
        if batch is not None and leaf.shape:
            spec[batch] = dividing(leaf.shape[batch], mesh)
        return Format(Layout.AUTO if case.auto_layouts else None, NamedSharding(mesh, PartitionSpec(*spec)))

    given = jax.tree_util.tree_map_with_path(put, args)
    out = Format(Layout.AUTO) if case.auto_layouts else None
    made = jax.jit(fun, donate_argnums=case.donated, in_shardings=given, out_shardings=out, compiler_options=case.told)
    return timer_of(mesh).schedule(made.lower(*args).compile()).seconds


def dividing(size: int, mesh: Mesh) -> Any:
    """As many mesh axes as divide a dim."""
    names, ways = [], 1
    for name, n in mesh.shape.items():
        if size % (ways * n) == 0:
            names.append(name)
            ways *= n
    return tuple(names) or None


def constrained(case: Case) -> Mapping[str, Realised | str]:
    """Each known layout at its best, as sharding constraints; a word where it does not fit."""
    fun, args = case.workload()
    setting = make_setting(case.mesh, None, case.limit)
    program = trace(fun, args, {}, setting.mesh, donate_argnums=case.donated or None)
    formulation = stages.formulation_of(program, stages.graph_of(program, setting, None, None), setting)
    found: dict[str, Realised | str] = {}
    for known, solution in stages.known_layouts(formulation, ready(formulation.problem), setting.work):
        if known.seconds is None:
            found[known.name] = known.note
            continue
        plan = stages.plan_of(program, formulation, solution, (), setting, case.name)
        found[known.name] = Realised(plan, program, setting.mesh, case.told, False, case.auto_layouts)
    return found


def times(case: Case, ours: float) -> Iterator[str]:
    """Ours; ours where the compiler is not told, and where arguments lie as they come; no plan; then each layout.

    What does not fit or compile says so.
    """
    yield seconds(ours)
    yield attempted(lambda: audited(case, compiler_options=None).seconds)
    yield attempted(lambda: audited(case, auto_layouts=False).seconds) if case.auto_layouts else seconds(ours)
    yield attempted(lambda: unplanned(case))
    layouts = constrained(case)
    for name in LAYOUTS.values():
        layout = layouts.get(name, "no such layout")
        yield layout if isinstance(layout, str) else attempted(lambda layout=layout: realised(case, layout))


def realised(case: Case, layout: Realised) -> float:
    """Seconds of a layout along the schedule."""
    args = case.workload()[1]
    return timer_of(layout.mesh).schedule(layout.jitted.lower(*args).compile()).seconds


def attempted(run: Callable[[], float]) -> str:
    """A time, or why there is none."""
    try:
        return seconds(run())
    except jax.errors.JaxRuntimeError as error:
        return "out of memory" if "RESOURCE_EXHAUSTED" in str(error) else f"refused: {str(error)[:40]}"


def table(title: str, *columns: str) -> Table:
    """A table whose first two columns are words."""
    made = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i < 2 else "right")
    return made


def row(found: Audit) -> list[str]:
    """Shares of communicated bytes, then predicted and compiled peak and time."""
    a, b = found.predicted_memory, found.compiled_memory
    predicted = found.predicted_seconds or 0.0
    held = [f"{p.peak / 1e9:.2f}" for p in (a, b) if p] + [f"{b.allocated / 1e9:.2f}" if b else "-"]
    peaks = [*held, f"{a.peak / b.peak - 1:+.1%}" if a and b else "-"]
    parts = [seconds(t) for t in (found.compute, found.exposed, found.hidden)]
    time = [seconds(predicted), seconds(found.seconds), f"{predicted / found.seconds - 1:+.0%}"]
    return [f"{found.surprising:.2%}", f"{found.absent:.2%}", *peaks, *time, *parts]


def tables() -> tuple[Table, Table]:
    """Both tables, without rows."""
    columns = ("surprise", "absent", "GB", "compiled", "allocated", "error", "predicted", "schedule", "error")
    audits = table("Planned and compiled", "workload", "topology", *columns, "compute", "exposed", "hidden")
    rivals = ("ours", "not told", "as they lie", "no plan", *LAYOUTS)
    return audits, table("Time along the compiled schedule", "workload", "topology", *rivals)


def rows(case: Case) -> tuple[list[str], list[str]]:
    """The case's row of each table; where it has no plan or does not compile, why, and no times."""
    try:
        found = audited(case)
    except (PlanError, jax.errors.JaxRuntimeError) as error:
        return [case.name, case.topology, str(error)[:200]], [case.name, case.topology]
    return [case.name, case.topology, *row(found)], [case.name, case.topology, *times(case, found.seconds)]


def picked(names: Sequence[str]) -> Sequence[Case]:
    """Cases whose name has one of these in it, as whole words; all without names."""
    cases = [c for c in CASES if not names or any(re.search(rf"\b{re.escape(n)}\b", c.name) for n in names)]
    if not cases:
        raise SystemExit(f"no case is named {' or '.join(names)}; cases are: {'; '.join(c.name for c in CASES)}")
    return cases


def main(names: Sequence[str]) -> None:
    """Prints each case's rows as they are found, then both tables."""
    console, cases, whole = Console(width=200), picked(names), tables()
    for case in cases:
        found = rows(case)
        for one, every, cells in zip(tables(), whole, found, strict=True):
            one.add_row(*cells)
            every.add_row(*cells)
            console.print(one)
        sys.stdout.flush()
    if len(cases) > 1:
        console.print(*whole)


if __name__ == "__main__":
    main(sys.argv[1:])
