"""From a jaxpr to a graph: equations become nodes, calls dissolve, loops keep their trip count.

`jit`, `remat` and custom derivative calls are walked through as if inlined. A `scan` is planned inside its body: what it
closes over, its carries, its scanned inputs and its stacked outputs are nodes of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jax.sharding import PartitionSpec

from passes.jaxpr import Path, source, subjaxprs
from planner.graph import Aval, Edge, Graph, Loop, Node, Port, identity, stacked, with_places
from planner.rules import Rule, rule_for

CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call", "custom_lin")
FALLBACK_FLOPS = 10.0


def build_graph(closed: Any, names: Sequence[str], ties: dict[int, int], pins: "Pins | None" = None) -> Graph:
    """The graph of a program.

    Args:
        closed: The program, a ClosedJaxpr.
        names: Name of each flat argument.
        ties: For each flat result that takes the place of a donated argument, the argument's index.
        pins: Specs that the user demands of arguments and results.

    Returns:
        A graph whose every edge goes from a port to an operand, with places for values that have many readers.
    """
    pins = pins or Pins((None,) * len(closed.jaxpr.invars), (None,) * len(closed.jaxpr.outvars))
    build = _Build()
    constants = [build.place("input", f"constant {i}", var.aval, whole=True) for i, var in enumerate(closed.jaxpr.constvars)]
    inputs = [build.place("input", n, v.aval, pin=p) for n, v, p in zip(names, closed.jaxpr.invars, pins.inputs)]
    results = build.visit(closed.jaxpr, [*constants, *inputs], (), 1.0)
    outputs = tuple(build.output(i, port, var, inputs, ties, pins) for i, (port, var) in enumerate(zip(results, closed.jaxpr.outvars)))
    nodes, edges, notes, loops = map(tuple, (build.nodes, build.edges, build.notes, build.loops))
    return with_places(Graph(nodes, edges, tuple(p.node for p in inputs), outputs, notes, loops=loops))


@dataclass(frozen=True)
class Pins:
    """The user's specs: one entry (or None) per flat argument and per flat result."""

    inputs: tuple[PartitionSpec | None, ...]
    outputs: tuple[PartitionSpec | None, ...]


@dataclass
class _Build:
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def add(self, role: str, name: str, rule: Rule, avals: Sequence[Any], path: Path = (), trips: float = 1.0, **more: Any) -> int:
        time = more.pop("time", None) or self.tick()
        end = more.pop("end", time)
        self.nodes.append(Node(role, name, rule, tuple(map(aval_of, avals)), path, trips, time, end, **more))
        return len(self.nodes) - 1

    def join(self, port: Port | None, target: int, operand: int, trips: float) -> None:
        """An edge; literals have no port, and a value that a loop hands on unchanged needs none."""
        if port is not None and port.node != target:
            self.edges.append(Edge(port, target, operand, trips))

    def place(self, role: str, name: str, aval: Any, port: Port | None = None, *, whole: bool = False, **more: Any) -> Port:
        """An identity node, read from `port`."""
        rule = identity(aval.shape)
        rule = Rule(rule.operands, rule.results, rule.sizes, whole=frozenset(range(len(aval.shape)))) if whole else rule
        node = self.add(role, name, rule, [aval], **more)
        self.join(port, node, 0, self.nodes[node].trips)
        return Port(node)

    def output(self, i: int, port: Port | None, var: Any, inputs: Sequence[Port], ties: dict[int, int], pins: Pins) -> int:
        if i in ties:
            target = inputs[ties[i]].node
            self.join(port, target, 0, 1.0)
            return target
        return self.place("output", f"result {i}", var.aval, port, pin=pins.outputs[i]).node

    def visit(self, jaxpr: Any, arguments: Sequence[Port | None], prefix: Path, trips: float) -> list[Port | None]:
        """Adds a jaxpr's equations; returns the ports of its results."""
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), arguments))
        for i, eqn in enumerate(jaxpr.eqns):
            operands = [None if is_literal(v) else env[v] for v in eqn.invars]
            results = self.equation(eqn, operands, (*prefix, i), trips)
            env.update(zip(eqn.outvars, results))
        return [None if is_literal(v) else env[v] for v in jaxpr.outvars]

    def equation(self, eqn: Any, operands: list[Port | None], path: Path, trips: float) -> list[Port | None]:
        name = eqn.primitive.name
        if name in CALLS:
            key, inner = subjaxprs(eqn)[0]
            return self.visit(inner, operands, (*path, key), trips)
        if name in LOOPS:
            return LOOPS[name](self, eqn, operands, path, trips)
        return self.operation(eqn, operands, path, trips)

    def operation(self, eqn: Any, operands: list[Port | None], path: Path, trips: float) -> list[Port | None]:
        ins, outs = [v.aval.shape for v in eqn.invars], [v.aval.shape for v in eqn.outvars]
        rule = rule_for(eqn.primitive.name, ins, outs, eqn.params) or self.unknown(eqn, ins, outs)
        pin = eqn.params["sharding"].spec if eqn.primitive.name == "sharding_constraint" else None
        avals = [v.aval for v in eqn.outvars]
        node = self.add("op", eqn.primitive.name, rule, avals, path, trips, source=source(eqn), pin=pin)
        for i, port in enumerate(operands):
            self.join(port, node, i, trips)
        return [Port(node, r) for r in range(len(outs))]

    def unknown(self, eqn: Any, ins: Sequence[Sequence[int]], outs: Sequence[Sequence[int]]) -> Rule:
        where = source(eqn) or "the program"
        self.notes.append(f"no rule for primitive {eqn.primitive.name!r} at {where}: planned as replicated; register one in planner.rules")
        return replicated(ins, outs)

    def scan(self, eqn: Any, operands: list[Port | None], path: Path, trips: float) -> list[Port | None]:
        (key, body), length = subjaxprs(eqn)[0], eqn.params["length"]
        consts, carries = eqn.params["num_consts"], eqn.params["num_carry"]
        at = self.border(eqn, path, trips)
        ins = list(zip(operands, body.invars))
        held = [self.border_place("const", p, v.aval, at) for p, v in ins[:consts]]
        carry = [self.place("carry", "loop carry", v.aval, p, **at) for p, v in ins[consts : consts + carries]]
        sliced = [self.slice(p, v.aval, at) for p, v in ins[consts + carries :]]
        stacks = [self.stack(v.aval, length, at) for v in body.outvars[carries:]]
        inputs, targets = [*held, *carry, *sliced], [*carry, *stacks]
        results = self.visit(body, inputs, (*path, key), trips * length)
        self.close_loop(path, inputs, targets, results, trips * length, [((*path, key), inputs)])
        return list(targets)

    def while_loop(self, eqn: Any, operands: list[Port | None], path: Path, trips: float) -> list[Port | None]:
        subs = dict(subjaxprs(eqn))
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        at = self.border(eqn, path, trips)
        self.notes.append(f"unknown trip count of the while loop at {at['source'] or 'the program'}: costs are those of one trip")
        ins = list(zip(operands, eqn.invars))
        held = [self.border_place("const", p, v.aval, at) for p, v in ins[: n + m]]
        carry = [self.place("carry", "loop carry", v.aval, p, **at) for p, v in ins[n + m :]]
        test, inner = [*held[:n], *carry], [*held[n:], *carry]
        self.visit(subs["cond_jaxpr"], test, (*path, "cond_jaxpr"), trips)
        results = self.visit(subs["body_jaxpr"], inner, (*path, "body_jaxpr"), trips)
        bodies = [((*path, "cond_jaxpr"), test), ((*path, "body_jaxpr"), inner)]
        self.close_loop(path, [*held, *carry], carry, results, trips, bodies)
        return list(carry)

    def branches(self, eqn: Any, operands: list[Port | None], path: Path, trips: float) -> list[Port | None]:
        """All branches are counted as if each ran: an upper bound."""
        at = self.border(eqn, path, trips)
        joined = [self.place("value", "cond", v.aval, **at) for v in eqn.outvars]
        for key, inner in subjaxprs(eqn):
            results = self.visit(inner, operands[1:], (*path, key), trips)
            for port, target in zip(results, joined):
                self.join(port, target.node, 0, trips)
        self.loops.append(Loop(path, (None,) * len(eqn.invars), tuple(p.node for p in joined)))
        return list(joined)

    def border(self, eqn: Any, path: Path, trips: float) -> dict[str, Any]:
        return {"path": path, "trips": trips, "source": source(eqn), "time": self.tick()}

    def border_place(self, role: str, port: Port | None, aval: Any, at: dict[str, Any]) -> Port | None:
        """A place for what enters a loop; a literal needs none."""
        return None if port is None else self.place(role, f"loop {role}", aval, port, **at)

    def slice(self, port: Port | None, aval: Any, at: dict[str, Any]) -> Port:
        node = self.add("slice", "loop input", stacked(aval.shape, stack=False), [aval], **at)
        self.join(port, node, 0, at["trips"])
        return Port(node)

    def stack(self, aval: Any, length: int, at: dict[str, Any]) -> Port:
        outer = aval.update(shape=(length, *aval.shape))
        return Port(self.add("stack", "loop output", stacked(aval.shape, stack=True), [outer], **at))

    def close_loop(self, path: Path, inputs: Sequence[Port | None], targets: Sequence[Port], results: Sequence[Port | None], trips: float, bodies: Any) -> None:
        """What a body returns goes to its targets; what the loop reads is needed until now."""
        for port, target in zip(results, targets):
            self.join(port, target.node, 0, trips)
        for port in (p for p in inputs if p is not None):
            self.nodes[port.node] = replace(self.nodes[port.node], end=self.clock)
        nodes = _nodes(inputs)
        self.loops.append(Loop(path, nodes, tuple(p.node for p in targets), tuple((b, _nodes(i)) for b, i in bodies)))


def _nodes(ports: Sequence[Port | None]) -> tuple[int | None, ...]:
    return tuple(None if p is None else p.node for p in ports)


LOOPS: dict[str, Callable[..., list[Port | None]]] = {"scan": _Build.scan, "while": _Build.while_loop, "cond": _Build.branches}


def replicated(ins: Sequence[Sequence[int]], outs: Sequence[Sequence[int]]) -> Rule:
    """The rule of an operation that nobody knows: every device does all of it, at a stated price per element."""
    sizes: list[int] = []
    dims = []
    for shape in (*ins, *outs):
        dims.append(tuple((len(sizes) + d,) for d in range(len(shape))))
        sizes.extend(shape)
    elements = sum(float(np.prod(shape)) for shape in (*ins, *outs))
    flops = FALLBACK_FLOPS * elements / float(np.prod([float(s) for s in sizes]) or 1.0)
    return Rule(tuple(dims[: len(ins)]), tuple(dims[len(ins) :]), tuple(sizes), whole=frozenset(range(len(sizes))), flops=flops)


def aval_of(aval: Any) -> Aval:
    """Our aval from JAX's."""
    return Aval(tuple(aval.shape), str(aval.dtype), aval.dtype.itemsize)


def is_literal(atom: Any) -> bool:
    """Whether an operand is a constant written into the equation."""
    return hasattr(atom, "val")
