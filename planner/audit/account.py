"""audit: a compiled program read, timed, and set against its plan."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax.sharding import AbstractMesh, Mesh

from planner.audit.hlo import Computation, Module, read
from planner.audit.match import matched
from planner.audit.record import Audit, Line, Memory, Move, Pair
from planner.audit.schedule import Schedule, Span, Timer, timer_of
from planner.cost.hardware import Machine
from planner.errors import AuditError
from planner.plan import Collective, Plan
from planner.sharding import MeshShape

TOLERANCE = 0.01
_SAME = ("bitcast", "copy", "convert", "reshape", "transpose", "get-tuple-element", "copy-done", "slice-done")


def audit(
    plan: Plan | None,
    compiled: Any,
    mesh: Mesh | AbstractMesh,
    machine: str | Machine | None = None,
    tolerance: float = TOLERANCE,
) -> Audit:
    """What was compiled against what was planned.

    Args:
        plan: The plan; None for an account of the compiled program alone.
        compiled: A `jax.stages.Compiled`, or the text of its HLO (then without its memory).
        mesh: The mesh that it was compiled for.
        machine: Whose prices and clock count; by default the plan's, else that of the mesh's devices.
        tolerance: The share of the communicated bytes that surprises may have.

    Raises:
        AuditError: The program cannot be read, or the plan is for another mesh.
    """
    if plan is not None and plan.mesh != dict(mesh.shape):
        raise AuditError(
            f"the plan is for mesh {plan.mesh}, the program for {dict(mesh.shape)}: pass those that belong"
        )
    named = machine if machine is not None else plan.machine if plan is not None else None
    return _account(plan, compiled, timer_of(mesh, named), tolerance)


def _account(plan: Plan | None, compiled: Any, timer: Timer, tolerance: float) -> Audit:
    module = read(compiled)
    found = timer.of_module(module)
    moves = tuple(_move(module, span) for span in found.spans if span.collective)
    wanted = [_planned(c, plan.mesh_shape) for c in plan.collectives] if plan else []
    lists = matched(wanted, moves if plan else [], scatters=found.estimated)
    return Audit(
        function=plan.function if plan else _name(compiled),
        mesh=dict(zip(timer.mesh.names, timer.mesh.sizes)),
        machine=timer.machine,
        planned=plan is not None,
        tolerance=tolerance,
        pairs=tuple(Pair(planned=p, compiled=c) for p, c in lists.pairs),
        surprises=lists.surprises,
        missing=lists.missing,
        moves=moves,
        predicted_seconds=plan.seconds if plan else None,
        seconds=found.seconds,
        compute=found.compute,
        exposed=found.exposed,
        hidden=found.hidden,
        estimated=found.estimated,
        predicted_memory=_predicted(plan) if plan else None,
        compiled_memory=_allocated(compiled),
        lines=tuple(_lines(plan, found)),
        notes=tuple(_notes(found)),
    )


def _planned(c: Collective, mesh: MeshShape) -> Move:
    chunks = int(mesh.size[mesh.mask(c.axes)]) if c.ring else 0
    return Move(
        kind=c.kind, axes=c.axes, nbytes=c.nbytes, trips=c.trips, seconds=c.seconds, source=c.source, chunks=chunks
    )


def _move(module: Module, span: Span) -> Move:
    found = span.collective
    assert found is not None
    return Move(
        kind=found.kind,
        axes=found.span.axes,
        nbytes=found.nbytes,
        trips=span.trips,
        seconds=span.exposed + span.hidden,
        source=found.source,
        scope=found.op_name,
        by_update=found.by_update,
        argument=_argument(module.main, found.name),
    )


def _argument(main: Computation, name: str) -> str:
    """The argument of the program that an instruction of its main computation moves; empty if none."""
    here = main.by_name.get(name)
    while here is not None and here.opcode != "parameter":
        onward = [main.by_name[n] for n in here.operands[:1] if n in main.by_name]
        known = here.name == name or here.opcode in _SAME
        here = onward[0] if onward and known else None
    return here.op_name if here is not None else ""


def _predicted(plan: Plan) -> Memory:
    """By part: temporaries are what the peak leaves beside arguments and results."""
    arguments, outputs = (sum(v.nbytes for v in side) for side in (plan.arguments, plan.results))
    aliased = sum(v.nbytes for v in plan.results if v.place)
    rest = max(0.0, plan.peak_bytes - arguments - outputs + aliased)
    return Memory(arguments=arguments, temporaries=rest, outputs=outputs, aliased=aliased, peak=plan.peak_bytes)


def _allocated(compiled: Any) -> Memory | None:
    found = None if isinstance(compiled, str) else compiled.memory_analysis()
    if found is None:
        return None
    return Memory(
        arguments=found.argument_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        outputs=found.output_size_in_bytes,
        aliased=found.alias_size_in_bytes,
        peak=found.peak_memory_in_bytes,
    )


def _lines(plan: Plan | None, found: Schedule) -> Iterator[Line]:
    """Every source line, the longest first."""
    local, comms = _by_line(plan.operations if plan else ()), _by_line(plan.collectives if plan else ())
    compiled: Mapping[str, Sequence[Span]] = found.by_line()
    every = [
        Line(
            source=source,
            local=local[source],
            comms=comms[source],
            compute=sum(span.compute for span in compiled.get(source, ())),
            exposed=sum(span.exposed for span in compiled.get(source, ())),
            hidden=sum(span.hidden for span in compiled.get(source, ())),
        )
        for source in dict.fromkeys((*compiled, *local, *comms))
    ]
    yield from sorted(every, key=lambda line: -max(line.local + line.comms, line.compute + line.exposed))


def _by_line(entries: Sequence[Any]) -> defaultdict[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for entry in entries:
        found[entry.source] += entry.seconds
    return found


def _notes(found: Schedule) -> Iterator[str]:
    if not found.estimated:
        yield "this compiler estimates no computation: the time is that of communication alone"
        yield "it never scatters a sum: an all_reduce in place of a reduce_scatter is no surprise here"
    for loop in found.unknown:
        yield f"the trip count of {loop} is not in the program: it counts once"


def _name(compiled: Any) -> str:
    text = compiled if isinstance(compiled, str) else compiled.as_text()
    return text.split(",", 1)[0].split()[1] if text.startswith("HloModule") else "program"
