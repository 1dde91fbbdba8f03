"""The program as a graph: nodes that have strategies, edges where a value may change its layout.

Beside the equations there are identity nodes, each a place where a value may have a layout of its own:

    input, output   arguments and results of the program (donated state: one node for both)
    value           where an open sum is closed once for all its readers
    copy            one gathered copy that several matmuls share
    const, carry    what a loop closes over, what it hands from step to step (one node: one layout for all steps)
    slice, stack    a loop's scanned inputs and outputs, seen as one step's slice
    join            where the results of branches meet
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from jax.sharding import PartitionSpec

from planner.rules.rule import Rule

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Aval:
    """Shape and dtype of a value; `itemsize` in bytes."""

    shape: tuple[int, ...]
    dtype: str
    itemsize: int

    @property
    def elements(self) -> float:
        """Number of elements."""
        total = 1.0
        for size in self.shape:
            total *= size
        return total


class Port(NamedTuple):
    """Result number `result` of a node."""

    node: int
    result: int = 0


@dataclass(frozen=True)
class Node:
    """An equation, or a place of a value.

    Attributes:
        role: "op" or one of the roles in the module's docstring.
        name: The primitive's name, or for arguments the argument's.
        avals: Avals of the results.
        path: Address of the equation in the program; for other nodes of the jaxpr they stand in.
        trips: How often it runs (product of the trip counts of enclosing loops).
        time: Position in program order; `end` is how long it needs its operands (the end of the loop, for a loop's
            inputs).
        source: The user's source line.
        pin: A spec that the user demands of its result.
        given: For the user's own regions, the factor that each mesh axis splits; the others split none.
        origin: Whose rule it has: "ours", "shardy" or "none".
    """

    role: str
    name: str
    rule: Rule
    avals: tuple[Aval, ...]
    path: Path
    trips: float
    time: int
    end: int
    source: str = ""
    pin: PartitionSpec | None = None
    given: Mapping[str, int] | None = None
    origin: str = "ours"


@dataclass(frozen=True)
class Edge:
    """`source` is read as operand `operand` of node `target`; a reshard on the way runs `trips` times."""

    source: Port
    target: int
    operand: int
    trips: float


@dataclass(frozen=True)
class Body:
    """The places at the border of a loop's body: nodes that its inputs are, nodes that its outputs go to."""

    path: Path
    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]


@dataclass(frozen=True)
class Loop:
    """The places at a loop's border: nodes of its operands and results, and its bodies."""

    path: Path
    operands: tuple[int | None, ...]
    results: tuple[int, ...]
    bodies: tuple[Body, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Nodes and edges of a program.

    Attributes:
        inputs: Node of each flat argument.
        outputs: Node of each flat result (an input node where the result takes the place of donated state).
        notes: What a reader of the plan must know: operations without a rule, unknown trip counts.
        opened: Ports whose value may be an open sum.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    notes: tuple[str, ...] = ()
    opened: frozenset[Port] = frozenset()
    loops: tuple[Loop, ...] = ()

    @cached_property
    def end(self) -> int:
        """When the program is over."""
        return max(node.end for node in self.nodes) + 1

    def aval(self, port: Port) -> Aval:
        """Aval of the value at a port."""
        return self.nodes[port.node].avals[port.result]

    @cached_property
    def ports(self) -> Sequence[Sequence[Port]]:
        """The results of each node."""
        return [[Port(n, r) for r in range(len(node.avals))] for n, node in enumerate(self.nodes)]

    @cached_property
    def readers(self) -> Mapping[Port, Sequence[Edge]]:
        """The edges that leave each port, in program order."""
        found: dict[Port, list[Edge]] = defaultdict(list)
        for edge in self.edges:
            found[edge.source].append(edge)
        return found


def identity(shape: Sequence[int]) -> Rule:
    """The rule of a node that only gives a value a place."""
    dims = tuple((d,) if size > 1 else () for d, size in enumerate(shape))
    return Rule((dims,), (dims,), tuple(shape), linear=((0,),), fusible=True)


def stacked(shape: Sequence[int], *, stack: bool) -> Rule:
    """Rule between a step's slice of `shape` and the stack of all steps, whose leading dim stays whole."""
    dims = tuple((d,) if size > 1 else () for d, size in enumerate(shape))
    sides = ((dims,), (((), *dims),))
    operands, results = sides if stack else sides[::-1]
    return Rule(operands, results, tuple(shape), fusible=True)


def may_be_open(graph: Graph) -> set[Port]:
    """Ports whose value may be an open sum: sums over a splittable factor, and what linear operations make of them."""
    sources: dict[tuple[int, int], Port] = {(e.target, e.operand): e.source for e in graph.edges}
    found: set[Port] = set()
    for n, node in enumerate(graph.nodes):
        if node.role == "op" and (node.rule.sums() or passes_open(graph, n, sources, found)):
            found.update(Port(n, r) for r in range(len(node.avals)))
    return found


def passes_open(graph: Graph, n: int, sources: Mapping[tuple[int, int], Port], opened: AbstractSet[Port]) -> bool:
    """Whether an operation is linear in operands that may be open. Integers round, so only floats count.

    What several read is closed before it is widened: that moves no more bytes, and what is computed from it needs no
    place where a wide sum would be closed.
    """
    node = graph.nodes[n]
    linear = node.rule.linear if node.rule.fusible and "float" in node.avals[0].dtype else ()
    if linear and _widens(graph, n, sources.get((n, 0))):
        return False
    return any(all(sources.get((n, i)) in opened for i in group) for group in linear)


def _widens(graph: Graph, n: int, source: Port | None) -> bool:
    """Whether a node converts what others read too to a wider type."""
    node = graph.nodes[n]
    if node.name != "convert_element_type" or source is None or len(graph.readers[source]) == 1:
        return False
    return graph.aval(source).itemsize < node.avals[0].itemsize


def with_places(graph: Graph) -> Graph:
    """Adds the `value` and `copy` nodes: closed once, gathered once, however many read it."""
    places = _Places(graph)
    for port, readers in graph.readers.items():
        places.settle(port, readers)
    edges = tuple(places.edges[e] for e in sorted(places.edges))
    return replace(graph, nodes=tuple(places.nodes), edges=edges, opened=frozenset(places.opened))


@dataclass
class _Places:
    graph: Graph
    nodes: list[Node] = field(init=False)
    edges: dict[int, Edge] = field(init=False)
    opened: set[Port] = field(init=False)

    def __post_init__(self) -> None:
        self.nodes = list(self.graph.nodes)
        self.edges = dict(enumerate(self.graph.edges))
        self.index = {edge: i for i, edge in self.edges.items()}
        self.opened = may_be_open(self.graph)

    def settle(self, port: Port, readers: Sequence[Edge]) -> None:
        node = self.graph.nodes[port.node]
        closes = bool(set(node.rule.reduced.values()) - {"sum"})
        if closes or (port in self.opened and len(readers) > 1):
            value = self.place("value", port, readers)
            readers = [replace(e, source=value) for e in readers]
            self.opened.update({value} if port in self.opened and not closes else ())
            port = value
        heavy = [e for e in readers if not self.graph.nodes[e.target].rule.fusible]
        if len(heavy) > 1 and not (len(heavy) == len(readers) and self.nodes[port.node].role == "value"):
            self.place("copy", port, heavy)

    def place(self, role: str, port: Port, readers: Sequence[Edge]) -> Port:
        """A new node between a port and some of its readers."""
        origin = self.nodes[port.node]
        aval = origin.avals[port.result]
        time = min(self.nodes[e.target].time for e in readers) if role == "copy" else origin.time
        trips = max(e.trips for e in readers) if role == "copy" else origin.trips
        node = Node(role, origin.name, identity(aval.shape), (aval,), origin.path, trips, time, time, origin.source)
        self.nodes.append(node)
        new = Port(len(self.nodes) - 1)
        for edge in readers:
            moved = replace(edge, source=new)
            i = self.index[edge]
            self.edges[i] = moved
            self.index[moved] = i
        self.edges[len(self.edges)] = Edge(port, new.node, 0, trips)
        return new
