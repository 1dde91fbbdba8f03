"""From a jaxpr to a graph: equations become nodes, calls dissolve, loops keep their trip count.

`jit`, `remat` and custom derivative calls are walked through as if inlined. A `scan` is planned inside its body: what
it closes over, its carries, its scanned inputs and its stacked outputs are nodes of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jax.core import ShapedArray
from jax.sharding import PartitionSpec

from passes.jaxpr import Path, bind, subjaxprs
from planner.graph import Aval, Edge, Graph, Loop, Node, Port, identity, with_places
from planner.hints import Hints
from planner.kept import barrier, region
from planner.loops import LOOPS
from planner.rules import Rule, rule_for
from planner.rules.opaque import BARRIERS, replicated
from planner.rules.shardy import shardy_rule
from planner.source import source_line, where

_CALLS = """call checkpoint closed_call composite compute_on core_call custom_jvp_call custom_jvp_call_jaxpr custom_lin
    custom_vjp_call custom_vmap_call eval_jaxpr jit linear_call pjit remat2 remat_opt"""

CALLS = frozenset(_CALLS.split())


def build_graph(
    closed: Any,
    names: Sequence[str],
    ties: dict[int, int],
    pins: "Pins | None" = None,
    hints: Hints | None = None,
    mesh: Mapping[str, int] | None = None,
) -> Graph:
    """The graph of a program.

    Args:
        closed: The program, a ClosedJaxpr.
        names: Name of each flat argument.
        ties: For each flat result that takes the place of a donated argument, the argument's index.
        pins: Specs that the user demands of arguments and results.
        hints: What the user knows of loops and branches.
        mesh: Axes and sizes of the mesh, for the regions that the user sharded over it.

    Returns:
        A graph whose every edge goes from a port to an operand, with places for values that have many readers.
    """
    pins = pins or Pins((None,) * len(closed.jaxpr.invars), (None,) * len(closed.jaxpr.outvars))
    build = Build(hints or Hints(), mesh)
    constants = [
        build.place("input", f"constant {i}", var.aval, whole=True) for i, var in enumerate(closed.jaxpr.constvars)
    ]
    inputs = [build.place("input", n, v.aval, pin=p) for n, v, p in zip(names, closed.jaxpr.invars, pins.inputs)]
    results = build.visit(closed.jaxpr, [*constants, *inputs], (), 1.0)
    outputs = tuple(
        build.output(i, port, var, inputs, ties, pins)
        for i, (port, var) in enumerate(zip(results, closed.jaxpr.outvars))
    )
    build.hints.check(build.hinted)
    arguments = tuple(p.node for p in inputs)
    nodes, edges, notes = tuple(build.nodes), tuple(build.edges), tuple(build.notes)
    return with_places(Graph(nodes, edges, arguments, outputs, notes, loops=tuple(build.loops)))


@dataclass(frozen=True)
class Pins:
    """The user's specs: one entry (or None) per flat argument and per flat result."""

    inputs: tuple[PartitionSpec | None, ...]
    outputs: tuple[PartitionSpec | None, ...]


@dataclass
class Build:
    """A graph under construction.

    Attributes:
        hinted: Source lines of what a hint could name.
        known: Rules of Shardy's, or None, by what tells equations apart.
    """

    hints: Hints = field(default_factory=Hints)
    mesh: Mapping[str, int] | None = None
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    hinted: list[str] = field(default_factory=list)
    known: dict[str, Rule | None] = field(default_factory=dict)
    clock: int = 0

    def tick(self) -> int:
        """The next position in program order."""
        self.clock += 1
        return self.clock

    def add(
        self, role: str, name: str, rule: Rule, avals: Sequence[Any], path: Path = (), trips: float = 1.0, **more: Any
    ) -> int:
        """A new node; returns its index."""
        time = more.pop("time", None) or self.tick()
        end = more.pop("end", time)
        self.nodes.append(Node(role, name, rule, tuple(map(aval_of, avals)), path, trips, time, end, **more))
        return len(self.nodes) - 1

    def join(self, port: Port | None, target: int, operand: int, trips: float) -> None:
        """An edge; literals have no port, and a value that a loop hands on unchanged needs none."""
        if port is not None and port.node != target:
            self.edges.append(Edge(port, target, operand, trips))

    def place(
        self, role: str, name: str, aval: Any, port: Port | None = None, *, whole: bool = False, **more: Any
    ) -> Port:
        """An identity node, read from `port`."""
        shape = aval_of(aval).shape
        rule = identity(shape)
        rule = Rule(rule.operands, rule.results, rule.sizes, whole=frozenset(range(len(shape)))) if whole else rule
        node = self.add(role, name, rule, [aval], **more)
        self.join(port, node, 0, self.nodes[node].trips)
        return Port(node)

    def output(
        self, i: int, port: Port | None, var: Any, inputs: Sequence[Port], ties: dict[int, int], pins: Pins
    ) -> int:
        """The node of a result: a place of its own, or that of the donated argument."""
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
        """Adds one equation; returns the ports of its results."""
        name = eqn.primitive.name
        if name in CALLS:
            key, inner = subjaxprs(eqn)[0]
            return self.visit(inner, operands, (*path, key), trips)
        if name in LOOPS:
            return LOOPS[name](self, eqn, operands, path, trips)
        return self.operation(eqn, operands, path, trips)

    def operation(self, eqn: Any, operands: list[Port | None], path: Path, trips: float) -> list[Port | None]:
        """Adds an equation that is no call and no loop."""
        rule, more = self.rule(eqn)
        pin = eqn.params["sharding"].spec if eqn.primitive.name == "sharding_constraint" else None
        avals = [v.aval for v in eqn.outvars]
        node = self.add("op", eqn.primitive.name, rule, avals, path, trips, source=source_line(eqn), pin=pin, **more)
        for i, port in enumerate(operands):
            self.join(port, node, i, trips)
        return [Port(node, r) for r in range(len(avals))]

    def rule(self, eqn: Any) -> tuple[Rule, dict[str, Any]]:
        """An equation's rule, with what else its node is told; whatever is no rule of ours is noted."""
        name = eqn.primitive.name
        ins, outs = ([aval_of(v.aval).shape for v in atoms] for atoms in (eqn.invars, eqn.outvars))
        if name == "shard_map":
            rule, given, what = region(eqn, self.mesh)
            self.note(f"shard_map at {where(eqn)}: {what}")
            return rule, {"given": given}
        if name in BARRIERS:
            self.note(f"{name} at {where(eqn)} is opaque: it runs whole on every device")
            return barrier(eqn, ins, outs), {"origin": "none"}
        rule = rule_for(name, ins, outs, eqn.params)
        return (rule, {}) if rule else self.foreign(eqn, ins, outs)

    def foreign(self, eqn: Any, ins: Sequence[Any], outs: Sequence[Any]) -> tuple[Rule, dict[str, Any]]:
        """The rule of a primitive that has none of ours: Shardy's, else that of doing all of it everywhere."""
        name, key = eqn.primitive.name, str((eqn.primitive.name, [str(v.aval) for v in eqn.invars], eqn.params))
        if key not in self.known:
            self.known[key] = shardy_rule(partial(bind, eqn), [v.aval for v in eqn.invars])
        rule = self.known[key]
        how = "Shardy's rule serves" if rule else "planned as replicated"
        self.note(f"no rule for primitive {name!r} at {where(eqn)}: {how}; register one in planner.rules")
        return (rule, {"origin": "shardy"}) if rule else (replicated(ins, outs), {"origin": "none"})

    def note(self, text: str) -> None:
        """What the reader of the plan must know; once, however many equations of a line say it."""
        if text not in self.notes:
            self.notes.append(text)


def aval_of(aval: Any) -> Aval:
    """Our aval from JAX's. A reference to a mutable array, or a token, is no array: nothing can lay it out."""
    if not isinstance(aval, ShapedArray):
        return Aval((), str(getattr(aval, "dtype", "token")), 1)
    return Aval(tuple(aval.shape), str(aval.dtype), aval.dtype.itemsize)


def is_literal(atom: Any) -> bool:
    """Whether an operand is a constant written into the equation."""
    return hasattr(atom, "val")
