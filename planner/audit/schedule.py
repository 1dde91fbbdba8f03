"""Time along a compiled schedule: what the chip computes, and which communication stands in its way.

Computation takes the compiler's own estimate in cycles, which contains reads and writes of HBM. Collectives have no
estimate; a cost model prices them. One that is started and later waited for runs beside what stands between; those that
share a wire of a torus, in one direction, run one after the other, elsewhere those that share a mesh axis. Copies that
the compiler starts early read at the speed of HBM.

    from planner.audit.schedule import timer_of
    schedule = timer_of(mesh).schedule(compiled)
    schedule.seconds, schedule.compute, schedule.hidden, schedule.exposed
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from planner.audit.collective import Compiled, chains, collective_of
from planner.audit.hlo import Computation, Instruction, Module, read
from planner.audit.topology import CLOCKS
from planner.audit.trips import trips_of
from planner.audit.wires import Wires, wires_of
from planner.cost.collectives import groups
from planner.cost.hardware import Machine, machine_named, machine_of
from planner.cost.model import CostModel, Roofline
from planner.sharding import MeshShape

_COPIES = ("copy-start", "slice-start")
EPSILON = 1e-9


@dataclass(frozen=True)
class Span:
    """Seconds that an instruction adds to the schedule, all trips together.

    Attributes:
        compute: The chip computes, or waits for its own memory.
        exposed: It waits for other chips.
        hidden: Communication beside computation.
        collective: The collective that this is, if it is one.
    """

    name: str
    source: str
    trips: float
    compute: float = 0.0
    exposed: float = 0.0
    hidden: float = 0.0
    collective: Compiled | None = None

    def times(self, trips: float) -> "Span":
        """The same in a loop."""
        parts = {k: trips * getattr(self, k) for k in ("trips", "compute", "exposed", "hidden")}
        return replace(self, **parts)


@dataclass(frozen=True)
class Schedule:
    """A program's time, instruction by instruction, in the order in which they end.

    Attributes:
        unknown: Names of loops whose trip count the text does not tell: they count once.
        estimated: Whether the compiler estimated its computations; it does for TPUs only.
    """

    spans: tuple[Span, ...]
    unknown: tuple[str, ...]
    estimated: bool

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.compute + self.exposed

    @property
    def compute(self) -> float:
        """Seconds in which the chip computes."""
        return sum(span.compute for span in self.spans)

    @property
    def exposed(self) -> float:
        """Seconds in which it waits for others."""
        return sum(span.exposed for span in self.spans)

    @property
    def hidden(self) -> float:
        """Seconds of communication beside computation."""
        return sum(span.hidden for span in self.spans)

    def by_line(self) -> Mapping[str, Sequence[Span]]:
        """The instructions of each source line, those that take longest first."""
        found: dict[str, list[Span]] = {}
        for span in self.spans:
            found.setdefault(span.source, []).append(span)
        return dict(sorted(found.items(), key=lambda item: -sum(s.compute + s.exposed for s in item[1])))


@dataclass(frozen=True)
class Timer:
    """What a schedule is timed by.

    Attributes:
        clock: Cycles per second of the chip; None where the compiler estimates none.
        bandwidth: Bytes/s of the chip's memory.
        prices: Seconds of collectives.
        wires: Where a permute's messages travel; None where devices do not say where they stand.
        machine: Its name.
    """

    mesh: MeshShape
    clock: float | None
    bandwidth: float
    prices: CostModel
    wires: Wires | None = None
    machine: str = ""

    def schedule(self, program: Any) -> Schedule:
        """The schedule of a `jax.stages.Compiled`, or of its text."""
        return self.of_module(read(program))

    def of_module(self, module: Module) -> Schedule:
        """The schedule of a program that has been read."""
        unknown: list[str] = []
        spans = tuple(_Walk(self, module, unknown).run(module.main))
        estimated = any(i.cycles for c in module.computations.values() for i in c.instructions)
        return Schedule(spans, tuple(unknown), estimated)

    def price(self, move: Compiled) -> float:
        """Seconds of one trip of a collective."""
        if not move.span.axes:
            return 0.0
        if move.kind == "permute" and self.wires is not None:
            return self.wires.permute(move.groups, move.nbytes)
        return float(
            self.prices.collective(move.kind, np.asarray(move.nbytes), np.asarray(self.mesh.mask(move.span.axes)))
        )

    def lanes(self, move: Compiled) -> Collection[Any]:
        """What a collective leaves to no other: of a torus the wires it takes, else the mesh axes, both ways."""
        if self.wires is None:
            return [(axis, way) for axis in move.span.axes for way in (1, -1)]
        return self.wires.taken(move.groups) if move.kind == "permute" else self.wires.along(move.groups)


def timer_of(mesh: Any, machine: str | Machine | None = None, prices: CostModel | None = None) -> Timer:
    """A timer for programs that are compiled for a mesh.

    Args:
        mesh: The mesh whose positions the program's device numbers are.
        machine: By default that of the mesh's devices.
        prices: By default the roofline of the machine.
    """
    hardware = machine_of(mesh) if machine is None else machine_named(machine)
    shape = MeshShape(tuple(mesh.axis_names), tuple(mesh.shape.values()))
    model = prices or Roofline(hardware.chip, groups(hardware.links(mesh)), relaid=0.0)
    wires = None if prices else wires_of(mesh, hardware)
    return Timer(shape, CLOCKS.get(hardware.name), hardware.chip.hbm_bandwidth, model, wires, hardware.name)


@dataclass
class _Walk:
    """One computation on its way. `busy` says until when a wire, a mesh axis or the memory is taken."""

    timer: Timer
    module: Module
    unknown: list[str]
    now: float = 0.0
    busy: dict[Any, float] = field(default_factory=dict)
    pending: dict[str, tuple[float, Span]] = field(default_factory=dict)
    chains: Mapping[str, str] = field(default_factory=dict)

    def run(self, computation: Computation) -> Iterator[Span]:
        self.chains = chains(self.module, computation)
        for instruction in computation.instructions:
            yield from self.step(computation, instruction)
        for name in list(self.pending):
            yield self.finish(name)

    def step(self, inside: Computation, i: Instruction) -> Iterator[Span]:
        started = next((name for name in i.operands if name in self.pending), None)
        if i.opcode.endswith("-done") and started is not None:
            yield self.finish(started)
        elif i.opcode == "while":
            yield from self.loop(i)
        elif i.opcode in ("call", "conditional"):
            yield from self.branch(i)
        elif (move := collective_of(self.module, inside, i, self.timer.mesh)) is not None:
            yield from self.communicate(i, move)
        elif i.opcode in _COPIES:
            self.copy(i)
        elif i.cycles:
            yield self.compute(i)

    def compute(self, i: Instruction) -> Span:
        seconds = self.cycles(i)
        self.now += seconds
        return Span(i.name, i.source, 1.0, compute=seconds)

    def cycles(self, i: Instruction) -> float:
        return (i.cycles or 0.0) / self.timer.clock if self.timer.clock else 0.0

    def communicate(self, i: Instruction, move: Compiled) -> Iterator[Span]:
        chained = move.chain in self.chains
        key = move.chain if chained else i.name
        if key not in self.pending:
            self.start(key, move)
        if not chained and not move.starts:  # what is fused with it runs beside it
            yield self.compute(i)
            yield self.finish(key)
        elif self.chains.get(move.chain) == i.name:
            yield self.finish(key)
        elif i.cycles:
            yield self.compute(i)

    def start(self, key: str, move: Compiled) -> None:
        seconds = self.timer.price(move)
        taken = self.timer.lanes(move)
        end = max([self.now, *(self.busy.get(lane, 0.0) for lane in taken)]) + seconds
        self.busy.update(dict.fromkeys(taken, end))
        self.pending[key] = end, Span(move.name, move.source, 1.0, hidden=seconds, collective=move)

    def finish(self, name: str) -> Span:
        """Waits for what was started: of communication that is exposed, of a copy it is the chip's own time."""
        end, span = self.pending.pop(name)
        wait = max(0.0, end - self.now)
        self.now += wait
        if span.collective is None:
            return replace(span, compute=wait)
        beside = span.hidden - wait
        return replace(span, exposed=wait, hidden=beside if beside > EPSILON * span.hidden else 0.0)

    def copy(self, i: Instruction) -> None:
        """A copy between HBM and the chip's own memory: the array that arrives."""
        nbytes = i.arrays[1].nbytes if len(i.arrays) > 1 else i.nbytes
        end = max(self.now, self.busy.get("HBM", 0.0)) + nbytes / self.timer.bandwidth
        self.busy["HBM"] = end
        self.pending[i.name] = end, Span(i.name, i.source, 1.0)

    def inside(self, name: str) -> list[Span]:
        return list(_Walk(self.timer, self.module, self.unknown).run(self.module.computations[name]))

    def loop(self, i: Instruction) -> Iterator[Span]:
        trips = trips_of(self.module, i)
        if trips is None:
            self.unknown.append(i.name)
        spans = [span.times(trips or 1.0) for span in self.inside(i.called("body"))]
        yield from self.advance(spans)

    def branch(self, i: Instruction) -> Iterator[Span]:
        """A call, or of several branches the longest."""
        yield from self.advance(max((self.inside(name) for name in i.calls), key=_length, default=[]))

    def advance(self, spans: list[Span]) -> list[Span]:
        self.now += _length(spans)
        return spans


def _length(spans: Sequence[Span]) -> float:
    return sum(span.compute + span.exposed for span in spans)
