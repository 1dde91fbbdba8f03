"""Programs as graphs, integer programs and plans, in one call each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType
from programs import mesh

from planner.build import build_graph
from planner.cost.collectives import groups
from planner.cost.hardware import PRESETS, Chip, Fabric, Machine
from planner.cost.model import Roofline
from planner.formulate import Formulation, formulate
from planner.graph import Aval, Edge, Graph, Node, Port
from planner.rules import Rule
from planner.sharding import MeshShape
from planner.trace import Program, trace

PLAIN = Machine("plain", Chip("plain", {"float32": 1e12}, 1e9, 1e11), Fabric(1e9, 1e-6, torus=3, wraps=4))
"""No tiles and round numbers, so that costs can be written down by hand."""


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract_mesh(*sizes: int) -> AbstractMesh:
    return AbstractMesh(sizes, ("x", "y", "z")[: len(sizes)], axis_types=(AxisType.Auto,) * len(sizes))


def program(fun: Any, *args: Any, on: Any = None, **options: Any) -> Program:
    return trace(fun, args, {}, on or mesh(8), **options)


def graph(fun: Any, *args: Any, on: Any = None, **options: Any) -> Graph:
    traced = program(fun, *args, on=on, **options)
    return build_graph(traced.closed, traced.names, traced.ties(), hints=traced.hints, mesh=dict((on or mesh(8)).shape))


def shape_of(mesh: AbstractMesh) -> MeshShape:
    return MeshShape(tuple(mesh.axis_names), tuple(mesh.axis_sizes))


def model(mesh: AbstractMesh, machine: Machine | str = PLAIN) -> Roofline:
    machine = PRESETS[machine] if isinstance(machine, str) else machine
    return Roofline(machine.chip, groups(machine.links(mesh)))


class Apart(Roofline):
    """A machine that never overlaps: no ring pays."""

    def ring(self, product: Any, fetch: Any, again: Any, nbytes: Any, mask: Any) -> Any:
        return np.full(np.shape(product), np.inf)


def apart(mesh: AbstractMesh, machine: Machine | str = PLAIN) -> Apart:
    machine = PRESETS[machine] if isinstance(machine, str) else machine
    return Apart(machine.chip, groups(machine.links(mesh)))


def formulated(
    fun: Any,
    *args: Any,
    mesh: AbstractMesh,
    machine: Machine = PLAIN,
    limit: float = 1e12,
    prices: Roofline | None = None,
    **options: Any,
) -> Formulation:
    prices = prices or model(mesh, machine)
    return formulate(graph(fun, *args, **options), shape_of(mesh), prices, machine.chip, limit)


def named(some: Graph, name: str) -> list[int]:
    """Nodes of a primitive."""
    return [n for n, node in enumerate(some.nodes) if node.role == "op" and node.name == name]


def of_role(some: Graph, role: str) -> list[int]:
    return [n for n, node in enumerate(some.nodes) if node.role == role]


def readers(some: Graph, n: int) -> list[int]:
    return [e.target for e in some.edges if e.source.node == n]


def node(
    role: str, time: int, *, fusible: bool = False, end: int = 0, shape: tuple[int, ...] = (8,), name: str = ""
) -> Node:
    """A node by hand: one operand, one result of its shape."""
    dims = tuple((d,) for d in range(len(shape)))
    rule = Rule((dims,), (dims,), shape, fusible=fusible)
    return Node(role, name or role, rule, (Aval(shape, "float32", 4),), (), 1.0, time, max(time, end), f"line {time}")


def by_hand(nodes: list[Node], edges: list[tuple[int, int]], outputs: tuple[int, ...] = ()) -> Graph:
    """A graph from nodes and pairs of them."""
    inputs = tuple(n for n, some in enumerate(nodes) if some.role == "input")
    return Graph(tuple(nodes), tuple(Edge(Port(a), b, 0, 1.0) for a, b in edges), inputs, outputs)


def bits(layout: Any) -> tuple[int, ...]:
    return tuple(int(x) for x in np.asarray(layout))
