"""Loops and branches in the graph: planned inside, with places at their border.

A carry is one node: what enters, what every step reads and writes and what leaves share one layout. Its edges from
outside cost one reshard per loop, those from inside one per step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from passes.jaxpr import Path, subjaxprs
from passes.scan import counts
from planner.effort import flops
from planner.graph import Body, Loop, Port, stacked
from planner.source import source_line, where
from planner.trips import trips_of

if TYPE_CHECKING:
    from planner.build import Build

SELDOM = 1e-3
"""How often a branch is taken that is not planned for: enough to lay it out well where that is free to the others."""

Ports = list[Port | None]
Border = dict[str, Any]


def scan(build: "Build", eqn: Any, operands: Ports, path: Path, trips: float) -> Ports:
    """A scan: constants, carries, scanned inputs seen as one step's slice, outputs stacked."""
    (key, body), length = subjaxprs(eqn)[0], eqn.params["length"]
    consts, carries = counts(eqn)
    at = _border(build, eqn, path, trips)
    ins = list(zip(operands, body.invars))
    held = [_const(build, p, v.aval, at) for p, v in ins[:consts]]
    carry = [_carry(build, p, v.aval, at) for p, v in ins[consts : consts + carries]]
    sliced = [_slice(build, p, v.aval, at) for p, v in ins[consts + carries :]]
    stacks = [_stack(build, v.aval, length, at) for v in body.outvars[carries:]]
    inputs, targets = [*held, *carry, *sliced], [*carry, *stacks]
    results = build.visit(body, inputs, (*path, key), trips * length)
    inside = Body((*path, key), _nodes(inputs), _nodes(targets))
    return _close(build, path, inputs, targets, results, trips * length, (inside,))


def while_loop(build: "Build", eqn: Any, operands: Ports, path: Path, trips: float) -> Ports:
    """A while loop: what it closes over and its carries, run as often as `planner.trips` says."""
    subs = dict(subjaxprs(eqn))
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    at = _border(build, eqn, path, trips)
    build.hinted.append(at["source"])
    runs, said = trips_of(eqn, at["source"], build.hints)
    if said:
        build.note(said)
    ins = list(zip(operands, eqn.invars))
    held = [_const(build, p, v.aval, at) for p, v in ins[: n + m]]
    carry = [_carry(build, p, v.aval, at) for p, v in ins[n + m :]]
    test, inner = [*held[:n], *carry], [*held[n:], *carry]
    build.visit(subs["cond_jaxpr"], test, (*path, "cond_jaxpr"), trips * runs)
    results = build.visit(subs["body_jaxpr"], inner, (*path, "body_jaxpr"), trips * runs)
    bodies = (
        Body((*path, "cond_jaxpr"), _nodes(test), (None,) * len(subs["cond_jaxpr"].outvars)),
        Body((*path, "body_jaxpr"), _nodes(inner), _nodes(carry)),
    )
    return _close(build, path, [*held, *carry], carry, results, trips * runs, bodies)


def cond(build: "Build", eqn: Any, operands: Ports, path: Path, trips: float) -> Ports:
    """Branches, each as often as the user says, else the worst one always; their results meet in one place."""
    at = _border(build, eqn, path, trips)
    joined = [build.place("join", "branch result", v.aval, **at) for v in eqn.outvars]
    bodies = []
    for (key, inner), share in zip(subjaxprs(eqn), _shares(build, eqn, at["source"])):
        results = build.visit(inner, operands[1:], (*path, key), trips * share)
        _join(build, results, joined, trips * share)
        bodies.append(Body((*path, key), (None,) * len(inner.invars), _nodes(joined)))
    build.loops.append(Loop(path, (None,) * len(eqn.invars), tuple(p.node for p in joined), tuple(bodies)))
    return list(joined)


def _shares(build: "Build", eqn: Any, source: str) -> Sequence[float]:
    """How often each branch is taken, of one call."""
    build.hinted.append(source)
    work = [flops(inner) for _, inner in subjaxprs(eqn)]
    given = build.hints.weights_at(source, len(work))
    if given is not None:
        build.note(f"branches at {where(eqn)} are weighed {', '.join(f'{w:g}' for w in given)}, as given")
        return [max(w, SELDOM) for w in given]
    worst = work.index(max(work))
    build.note(f"branches at {where(eqn)}: planned for the worst, number {worst} of {len(work)}")
    return [1.0 if i == worst else SELDOM for i in range(len(work))]


def linear_solve(build: "Build", eqn: Any, operands: Ports, path: Path, trips: float) -> Ports:
    """A custom linear solve runs its `solve` on that one's own constants and the right-hand side."""
    lengths = eqn.params["const_lengths"]
    first = lengths.matvec + lengths.vecmat
    mine = [*operands[first : first + lengths.solve], *operands[sum(lengths) :]]
    key = f"jaxprs.{lengths._fields.index('solve')}"
    return build.visit(dict(subjaxprs(eqn))[key], mine, (*path, key), trips)


LOOPS: Mapping[str, Callable[..., Ports]] = {
    "scan": scan,
    "while": while_loop,
    "cond": cond,
    "custom_linear_solve": linear_solve,
}


def _border(build: "Build", eqn: Any, path: Path, trips: float) -> Border:
    return {"path": path, "trips": trips, "source": source_line(eqn), "time": build.tick()}


def _const(build: "Build", port: Port | None, aval: Any, at: Border) -> Port | None:
    """A place for what a loop closes over; a literal needs none."""
    return None if port is None else build.place("const", "loop const", aval, port, **at)


def _carry(build: "Build", port: Port | None, aval: Any, at: Border) -> Port:
    return build.place("carry", "loop carry", aval, port, **at)


def _slice(build: "Build", port: Port | None, aval: Any, at: Border) -> Port:
    node = build.add("slice", "loop input", stacked(aval.shape, stack=False), [aval], **at)
    build.join(port, node, 0, at["trips"])
    return Port(node)


def _stack(build: "Build", aval: Any, length: int, at: Border) -> Port:
    outer = aval.update(shape=(length, *aval.shape))
    return Port(build.add("stack", "loop output", stacked(aval.shape, stack=True), [outer], **at))


def _join(build: "Build", results: Sequence[Port | None], targets: Sequence[Port], trips: float) -> None:
    for port, target in zip(results, targets):
        build.join(port, target.node, 0, trips)


def _close(
    build: "Build",
    path: Path,
    inputs: Ports,
    targets: list[Port],
    results: Ports,
    trips: float,
    bodies: tuple[Body, ...],
) -> Ports:
    """What a body returns goes to its targets; what the loop reads and writes is needed until now."""
    _join(build, results, targets, trips)
    for port in (p for p in (*inputs, *targets) if p is not None):
        build.nodes[port.node] = replace(build.nodes[port.node], end=build.clock)
    build.loops.append(Loop(path, _nodes(inputs), tuple(p.node for p in targets), bodies))
    return list(targets)


def _nodes(ports: Sequence[Port | None]) -> tuple[int | None, ...]:
    return tuple(None if p is None else p.node for p in ports)
