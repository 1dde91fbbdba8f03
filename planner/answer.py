"""From the solver's choice to the plan: specs, pins, expected collectives, what holds memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from passes.jaxpr import show
from passes.scatter import filled
from planner.cost.model import CostModel
from planner.formulate import Formulation
from planner.graph import Edge, Node, Port
from planner.notation import Notation
from planner.order import RING, Ordered, Placed, dim_axes, ends, operand_axes, result_axes
from planner.permutes import moves
from planner.plan import Body, Chain, Collective, Holder, Operation, Ring, Spec
from planner.solve.problem import held
from planner.strategy import open_job
from planner.work import Read, travelling_bytes

TOP = 12
PLACES = ("copy", "const")
RESULT = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """A formulation with a strategy and an order of axes for every node."""

    formulation: Formulation
    choice: Sequence[int]
    ordered: Ordered
    model: CostModel
    letters: Notation

    def placed(self, n: int) -> Placed:
        """The strategy of a node and the order of its axes."""
        return self.choice[n], self.ordered.orders[n]

    def spec(self, port: Port) -> Spec:
        """Mesh axes of each dim of the value at a port."""
        n, r = port.node, port.result
        x, order = self.placed(n)
        return self._once(("shown", r, self.alike(n)), lambda: tuple(result_axes(self.formulation, n, x, r, order)))

    def taken_spec(self, n: int, i: int) -> Spec:
        """Mesh axes of each dim of operand `i` as node `n` takes it."""
        x, order = self.placed(n)
        return self._once(("taken", i, self.alike(n)), lambda: tuple(operand_axes(self.formulation, n, x, i, order)))

    def notation(self, n: int) -> str:
        """A node in the paper's notation."""
        node, order, opened = self.formulation.graph.nodes[n], self.ordered.orders[n], self.open_axes(Port(n))
        return self._once(("notation", self.alike(n)), lambda: self.letters.operation(node, order, opened))

    def way(self, edge: Edge) -> tuple[tuple[str, tuple[str, ...], float], ...]:
        """The collectives on an edge: kind, axes, and parts of the value, as in `planner.permutes.moves`."""
        key = ("way", edge.source.result, edge.operand, self.alike(edge.source.node), self.alike(edge.target))
        f, a, b = self.formulation, self.placed(edge.source.node), self.placed(edge.target)
        return self._once(key, lambda: moves(*ends(f, edge, a, b), f.mesh))

    def alike(self, n: int) -> tuple[int, int, int]:
        """Equal for equal operations in equal strategies and orders."""
        return id(self.formulation.strategies[n]), self.choice[n], id(self.ordered.orders[n])

    def _once(self, key: object, make: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @cached_property
    def _known(self) -> dict[object, Any]:
        return {}

    def operand_spec(self, edge: Edge) -> Spec:
        """Mesh axes of each dim of a value as the edge's target reads it."""
        return self.taken_spec(edge.target, edge.operand)

    def open_axes(self, port: Port) -> tuple[str, ...]:
        """Mesh axes over which the value at a port is still to be summed."""
        f = self.formulation
        if not f.graph.nodes[port.node].avals:
            return ()
        return f.mesh.axes(int(f.strategies[port.node].result(port.result)[self.choice[port.node], -1]))

    def open_operand(self, edge: Edge) -> bool:
        """Whether the edge's target takes an open sum."""
        strategies = self.formulation.strategies[edge.target]
        return bool(strategies.operand(edge.operand)[self.choice[edge.target], -1])

    @cached_property
    def operands(self) -> Mapping[tuple[int, int], Edge]:
        """The edge into each operand of each node."""
        return {(e.target, e.operand): e for e in self.formulation.graph.edges}

    @cached_property
    def homes(self) -> Mapping[Port, Port]:
        """Where an open sum is closed: the port of its `value` node."""
        graph = self.formulation.graph
        return {e.source: Port(e.target) for e in graph.edges if graph.nodes[e.target].role == "value"}


def operations(answer: Answer) -> Iterator[Operation]:
    """Every equation with its pins, in program order, and the loops with theirs."""
    graph = answer.formulation.graph
    for n in sorted(range(len(graph.nodes)), key=lambda n: (graph.nodes[n].time, n)):
        if graph.nodes[n].role == "op":
            yield _operation(answer, n, graph.nodes[n])
    yield from _loops(answer)


def _operation(answer: Answer, n: int, node: Node) -> Operation:
    f, x = answer.formulation, answer.choice[n]
    return Operation(
        path=show(node.path),
        primitive=node.name,
        source=node.source,
        notation=answer.notation(n),
        trips=node.trips,
        seconds=float(f.problem.cost[n][x]),
        flops=float(node.trips * node.rule.flops * f.strategies[n].local_sizes[x].prod()),
        operands=tuple(_operand_pin(answer, n, i) for i in range(len(node.rule.operands))),
        results=tuple(_result_pin(answer, Port(n, r)) for r in range(len(node.avals))),
        ring=_ring(answer, n),
        splits=tuple(tuple(answer.ordered.orders[n].get(f, ())) for f in range(len(node.rule.sizes))),
        **_passed_on(f, n, x),
    )


def _ring(answer: Answer, n: int) -> Ring | None:
    ring = answer.formulation.strategies[n].ring(answer.choice[n])
    if ring is None:
        return None
    lhs, rhs = (answer.taken_spec(n, i) for i in (0, 1))
    kind = "reduce_scatter" if ring.place == RESULT else "all_gather"
    axes, out, opened = answer.ordered.orders[n][RING], answer.spec(Port(n)), answer.open_axes(Port(n))
    order = answer.formulation.mesh.ring(axes)
    return Ring(kind=kind, axes=axes, lhs=lhs, rhs=rhs, out=out, opened=opened, order=order)


def _passed_on(f: Formulation, n: int, x: int) -> dict[str, Any]:
    """The axes over which an operation passes an open sum on, and through which group of operands."""
    jobs = f.strategies[n].jobs[x].tolist()
    through = tuple(name for name, job in zip(f.mesh.names, jobs) if job <= open_job(0))
    return {"through": through, "group": open_job(0) - min(jobs, default=0)} if through else {}


def _operand_pin(answer: Answer, n: int, i: int) -> Chain:
    """Pin an operand that changes its layout on the way; one that is read as it lies needs none."""
    edge = answer.operands.get((n, i))
    if edge is None or not answer.formulation.graph.aval(edge.source).shape or answer.open_operand(edge):
        return ()
    wanted = answer.operand_spec(edge)
    if answer.open_axes(edge.source):
        return _closing(answer, edge.source, wanted)
    shown, role = answer.spec(edge.source), answer.formulation.graph.nodes[edge.source.node].role
    if wanted != shown and role == "copy":
        return (shown, wanted)  # what several share is made for all of them
    return (wanted,) if wanted != shown or role in PLACES else ()


def _result_pin(answer: Answer, port: Port) -> Chain:
    home = answer.homes.get(port, port)
    if not answer.formulation.graph.aval(port).shape or answer.open_axes(home):
        return ()
    return _closing(answer, port, answer.spec(home)) if answer.open_axes(port) else (answer.spec(home),)


def _closing(answer: Answer, port: Port, wanted: Spec) -> Chain:
    """An open sum is reduced first, scattered to where it is wanted, and only then moves on."""
    opened = answer.open_axes(port)
    summed = tuple((*have, *(axis for axis in want if axis in opened)) for have, want in zip(answer.spec(port), wanted))
    mesh, shape = answer.formulation.mesh, answer.formulation.graph.aval(port).shape
    divides = all(size % int(mesh.size[mesh.mask(axes)]) == 0 for size, axes in zip(shape, summed))
    return (wanted,) if summed == wanted or not divides else (summed, wanted)


def _loops(answer: Answer) -> Iterator[Operation]:
    """Loops pin what they take and what they give."""
    graph = answer.formulation.graph
    for loop in graph.loops:
        some = next(n for n in (*loop.results, *loop.operands) if n is not None)
        yield Operation(
            path=show(loop.path),
            primitive="loop",
            source=graph.nodes[some].source,
            notation="",
            trips=graph.nodes[some].trips,
            seconds=0.0,
            flops=0.0,
            operands=tuple(_single(_taken(answer, n)) for n in loop.operands),
            results=tuple(_single(_shown(answer, n)) for n in loop.results),
        )


def _single(spec: Spec | None) -> Chain:
    return () if spec is None else (spec,)


def _taken(answer: Answer, n: int | None) -> Spec | None:
    """The layout that a place takes its operand in."""
    dims = () if n is None else answer.formulation.graph.nodes[n].rule.operands[0]
    return tuple(dim_axes(dims, answer.ordered.orders[n])) if n is not None and dims else None


def _shown(answer: Answer, n: int | None) -> Spec | None:
    """The layout that a place shows its readers."""
    return None if n is None or not answer.formulation.graph.nodes[n].avals[0].shape else answer.spec(Port(n))


def bodies(answer: Answer) -> dict[str, Body]:
    """Pins of the inputs and outputs of each loop body."""
    return {
        show(body.path): Body(
            inputs=tuple(_shown(answer, n) for n in body.inputs), outputs=tuple(_taken(answer, n) for n in body.outputs)
        )
        for loop in answer.formulation.graph.loops
        for body in loop.bodies
    }


def collectives(answer: Answer) -> Iterator[Collective]:
    """Every collective that the plan expects, in program order."""
    graph = answer.formulation.graph
    for _, i in sorted((graph.nodes[edge.target].time, i) for i, edge in enumerate(graph.edges)):
        yield from _reshard(answer, i)
    for n in range(len(graph.nodes)):
        yield from _inside(answer, n)


def _inside(answer: Answer, n: int) -> Iterator[Collective]:
    """The collective that a matmul runs as a ring."""
    f, x = answer.formulation, answer.choice[n]
    if (ring := f.strategies[n].ring(x)) is None:
        return
    node, operand = f.graph.nodes[n], min(ring.place, 1)
    one = f.strategies[n].keep(np.array([x]))
    edge = answer.operands[n, operand]
    avals = {i: Read(f.graph.aval(answer.operands[n, i].source), True) for i in (0, 1) if (n, i) in answer.operands}
    yield Collective(
        kind="reduce_scatter" if ring.place == RESULT else "all_gather",
        axes=ring.axes,
        nbytes=float(travelling_bytes(node, avals, one)[0]),
        trips=node.trips,
        seconds=0.0,
        value=node.name if ring.place == RESULT else f.graph.nodes[edge.source.node].name,
        path=show(node.path),
        source=node.source,
        ring=True,
    )


def _reshard(answer: Answer, i: int) -> Iterator[Collective]:
    """The collectives of an edge, as `passes.moves` makes them: axes as they stand, sums filled up."""
    f = answer.formulation
    edge, waiting = f.graph.edges[i], 1.0 - f.hidden.get(i, 0.0)
    aval = f.graph.aval(edge.source)
    for kind, axes, parts in answer.way(edge):
        nbytes, mask = aval.elements * aval.itemsize / parts, f.mesh.mask(axes)
        seconds = float(answer.model.collective(kind, np.asarray(nbytes), np.asarray(mask)))
        if kind == "reduce_scatter":
            nbytes = filled(aval.elements / parts, int(f.mesh.size[mask]), aval.itemsize) * aval.itemsize
        yield _collective(answer, edge, kind, mask, nbytes, seconds * (waiting if kind == "all_gather" else 1.0))


def _collective(answer: Answer, edge: Edge, kind: str, mask: int, nbytes: float, seconds: float) -> Collective:
    source, target = (answer.formulation.graph.nodes[n] for n in (edge.source.node, edge.target))
    where = source if target.role in ("value", "output") else target
    return Collective(
        kind=kind,
        axes=answer.formulation.mesh.axes(mask),
        nbytes=nbytes,
        trips=edge.trips,
        seconds=edge.trips * seconds,
        value=source.name if source.role in ("input", "op") else f"{source.role} {source.name}",
        path=show(where.path),
        source=where.source or source.source,
    )


def holders(answer: Answer) -> tuple[float, tuple[Holder, ...]]:
    """Bytes of a chip at the peak, and what holds most of them."""
    problem, graph = answer.formulation.problem, answer.formulation.graph
    nbytes = held(problem, answer.choice)
    totals = problem.live.totals(nbytes)
    live = problem.live.at(int(totals.argmax()))
    found = [(float(nbytes[n]), _describe(graph.nodes[n])) for n in live.nodes]
    for i in live.edges:
        copied = float(nbytes[len(graph.nodes) + i])
        found.append((copied, f"moved copy of {_describe(graph.nodes[problem.edges[i].u])}"))
    top = sorted((pair for pair in found if pair[0] > 0), key=lambda pair: (-pair[0], pair[1]))[:TOP]
    return float(totals.max()), tuple(Holder(name=name, nbytes=nbytes) for nbytes, name in top)


def _describe(node: Node) -> str:
    aval = node.avals[0]
    where = f" at {node.source}" if node.source and node.role != "input" else ""
    return f"{node.name} {aval.dtype}{list(aval.shape)}{where}"
