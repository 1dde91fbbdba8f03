"""Graph × strategies × cost → the integer program. The only place where they meet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jax.sharding import PartitionSpec

from planner.ahead import hidden
from planner.cost.hardware import Chip
from planner.cost.model import CostModel
from planner.errors import SpecConflictError
from planner.graph import Aval, Edge, Graph, Node, Port, passes_open
from planner.liveness import Buffers, buffers
from planner.local import Local
from planner.reshard import Reshard, reshard
from planner.rules.rule import Rule
from planner.sharding import MeshShape, names_of, shard_elements
from planner.solve import problem as integer
from planner.strategy import Strategies, enumerate_strategies, given_strategy
from planner.work import flying_bytes, held_bytes, is_matmul, operand_avals

Array = np.ndarray
FREE_TO_CUT = ("value", "copy")
MOVED = ("copy", "const", "output")
TOLD = ("slice", "input", "output")
RINGED = "dot_general"
WORTH = 0.97
"""The share of what it replaces that a ring may take: it has to win by more than its price may be wrong."""
STORAGE = 1e-6
"""Of two plans that take the same time the thriftier one: holding a byte costs a millionth of reading it once."""


@dataclass(frozen=True)
class Formulation:
    """The integer program with what its numbers stand for.

    Attributes:
        strategies: Of each node.
        links: Of each edge.
        hidden: For edges whose gathers run beside work, the share that does.
    """

    graph: Graph
    mesh: MeshShape
    strategies: tuple[Strategies, ...]
    links: tuple["LinkTable", ...]
    problem: integer.Problem
    hidden: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LinkTable:
    """An edge's distinct layouts at both ends, and the reshard between each pair."""

    sources: Array
    targets: Array
    row: Array
    col: Array
    steps: Reshard
    seconds: Array


def formulate(graph: Graph, mesh: MeshShape, model: CostModel, chip: Chip, limit: float) -> Formulation:
    """The problem of choosing one strategy per node of a graph.

    Args:
        graph: The program.
        mesh: Axes that strategies may use.
        model: Seconds of local work and of collectives.
        chip: Tiles that buffers and matmuls are padded to.
        limit: Bytes of memory per chip.
    """
    return priced(graph, _strategies(graph, mesh), mesh, model, chip, limit, WORTH)


def priced(
    graph: Graph,
    strategies: Sequence[Strategies],
    mesh: MeshShape,
    model: CostModel,
    chip: Chip,
    limit: float,
    worth: float = np.inf,
) -> Formulation:
    """As `formulate`, with these strategies of each node.

    Rings that take more than the share `worth` of the time of the matmul and its collective in turn are left out.
    """
    held = buffers(graph)
    kept = _worked(graph, strategies, held, model, chip, worth)
    strategies, work = tuple(s for s, _ in kept), tuple(seconds for _, seconds in kept)
    tables = _Tables(mesh, model)
    links = tuple(tables.link(graph.aval(e.source), strategies, e) for e in graph.edges)
    usage = _usages(graph, strategies, held, chip)
    cost = _with_storage(work, usage, chip)
    shares = hidden(graph, mesh, model, chip.ahead)
    edges = _edges(graph, links, held, shares, chip, mesh, model)
    return Formulation(graph, mesh, strategies, links, integer.Problem(cost, edges, usage, held.live, limit), shares)


def _strategies(graph: Graph, mesh: MeshShape) -> Sequence[Strategies]:
    sources = {(e.target, e.operand): e.source for e in graph.edges}
    known: dict[object, Strategies] = {}
    found = []
    for n, node in enumerate(graph.nodes):
        is_open = (node.role == "op" and passes_open(graph, n, sources, graph.opened)) or (
            Port(n) in graph.opened and node.role == "value"
        )
        if node.given is not None:
            found.append(given_strategy(node.rule, mesh, node.given))
            continue
        key = (rule_key(node.rule), is_open, node.name == RINGED)
        if key not in known:
            known[key] = enumerate_strategies(node.rule, mesh, may_be_open=is_open, rings=node.name == RINGED)
        found.append(_pinned(node, known[key]))
    return found


def rule_key(rule: Rule) -> object:
    """A hashable that is equal for rules with equal strategies."""
    return (rule.operands, rule.results, rule.sizes, tuple(sorted(rule.reduced.items())), rule.whole, rule.linear)


def _pinned(node: Node, strategies: Strategies) -> Strategies:
    """Only the strategies that show the user's spec."""
    if node.pin is None:
        return strategies
    keep, mesh = shows(strategies, 0, node.pin), strategies.mesh
    if not keep.any():
        raise SpecConflictError(
            f"{node.name} {node.avals[0].dtype}{list(node.avals[0].shape)} cannot have the spec {node.pin} on mesh "
            f"{mesh}{' at ' + node.source if node.source else ''}: every mesh axis must divide its dim; "
            f"change the spec or the mesh"
        )
    return strategies.keep(keep)


def shows(strategies: Strategies, result: int, spec: PartitionSpec) -> Array:
    """Mask of the strategies whose result has a spec, with nothing left to sum; the order within a dim is open."""
    layouts, mesh = strategies.result(result), strategies.mesh
    keep = layouts[:, -1] == 0
    entries = [*spec, *[None] * (layouts.shape[1] - 1 - len(spec))]
    for dim, entry in enumerate(entries):
        if entry is not spec.UNCONSTRAINED:
            keep &= layouts[:, dim] == mesh.mask(names_of(entry)) & mesh.splitting
    return keep


@dataclass
class _Tables:
    """Edge tables, shared between edges with equal layouts at both ends."""

    mesh: MeshShape
    model: CostModel
    known: dict[object, tuple[Reshard, Array]] = field(default_factory=dict)
    layouts: dict[object, tuple[Array, Array]] = field(default_factory=dict)

    def link(self, aval: Aval, strategies: Sequence[Strategies], edge: Edge) -> LinkTable:
        sources, row = self.distinct(strategies[edge.source.node], "result", edge.source.result)
        targets, col = self.distinct(strategies[edge.target], "operand", edge.operand)
        key = (aval.elements, aval.itemsize, sources.tobytes(), targets.tobytes(), sources.shape)
        if key not in self.known:
            steps = reshard(sources, targets, aval.elements, self.mesh)
            self.known[key] = steps, self.seconds(steps, aval.itemsize)
        return LinkTable(sources, targets, row, col, *self.known[key])

    def distinct(self, strategies: Strategies, side: str, i: int) -> tuple[Array, Array]:
        key = (id(strategies), side, i)
        if key not in self.layouts:
            rows = getattr(strategies, side)(i)
            layouts, where = np.unique(rows, axis=0, return_inverse=True)
            self.layouts[key] = layouts, where.reshape(-1)
        return self.layouts[key]

    def seconds(self, steps: Reshard, itemsize: int) -> Array:
        total = np.where(steps.possible, 0.0, np.inf)
        for move in steps.moves:
            at = np.nonzero(move.masks)
            total[at] += self.model.collective(move.kind, itemsize * move.elements[at], move.masks[at])
        return total


def _edges(
    graph: Graph,
    links: Sequence[LinkTable],
    held: Buffers,
    shares: Mapping[int, float],
    chip: Chip,
    mesh: MeshShape,
    model: CostModel,
) -> tuple[integer.Edge, ...]:
    """The seconds of each edge, and the bytes of the copy that a reshard makes. Equal edges share their arrays."""
    known: dict[object, tuple[Array, Array | None]] = {}
    found = []
    for i, (edge, link) in enumerate(zip(graph.edges, links)):
        use = _use(graph, i, held, shares.get(i, 0.0))
        if (use, id(link.steps)) not in known:
            known[use, id(link.steps)] = use.priced(link, chip, mesh, model)
        found.append(integer.Edge(edge.source.node, edge.target, link.row, link.col, *known[use, id(link.steps)]))
    return tuple(found)


@dataclass(frozen=True)
class _Use:
    """What the price of an edge depends on, beside the layouts at its ends.

    Attributes:
        cut: Whether each device cuts its part out of a buffer, for a reader that does not do so while it reads.
        hidden: The share of its gathers that runs beside work.
        passing: Whether the value is computed on the fly, so that only a collective has it written and read.
    """

    aval: Aval
    role: str
    trips: float
    handed: bool
    copied: bool
    cut: bool
    hidden: float
    passing: bool

    def priced(self, link: LinkTable, chip: Chip, mesh: MeshShape, model: CostModel) -> tuple[Array, Array | None]:
        """Seconds and, where there is a copy at all, its bytes."""
        ahead = self.ahead(link, model)
        sliced = (link.steps.sliced > 0) & self.cut & (ahead == 0)
        part = 2 * held_bytes(self.aval, link.targets, chip, mesh, self.role)  # read and written
        again = model.compute(np.zeros(len(part)), part, self.aval.dtype) + model.launch
        slicing = ahead + np.where(sliced, again, 0.0) + np.where(self.relaid(link), again, 0.0)
        waiting = link.seconds - self.hidden * self.gathers(link, model) if self.hidden else link.seconds
        landing = self.landing(link, chip, mesh) if self.passing else 0.0
        return (waiting + slicing + landing) * self.trips, self.copy(link, sliced, chip, mesh)

    def ahead(self, link: LinkTable, model: CostModel) -> Array:
        """Seconds to cut a part out of a buffer for a collective, which reads nothing else."""
        early = np.where(link.steps.moving, link.steps.early, 0.0)
        if self.passing or not early.any():
            return np.zeros_like(early)
        seconds = model.compute(np.zeros_like(early), 2 * self.aval.itemsize * early, self.aval.dtype) + model.launch
        return np.where(early > 0, seconds, 0.0)

    def landing(self, link: LinkTable, chip: Chip, mesh: MeshShape) -> Array:
        """Seconds to write what a collective takes and to read what it gives, at the pace of the vector unit."""
        source, target = (shard_elements(self.aval.shape, x, mesh).prod(1) for x in (link.sources, link.targets))
        nbytes = max(self.aval.itemsize / chip.hbm_share, chip.word) * (source[:, None] + target)
        return np.where(link.steps.moving, nbytes / chip.hbm_bandwidth, 0.0)

    def gathers(self, link: LinkTable, model: CostModel) -> Array:
        """Seconds of the gathers among the collectives."""
        moves, nbytes = link.steps.moves, self.aval.itemsize
        found = (model.collective(m.kind, nbytes * m.elements, m.masks) for m in moves if m.kind == "all_gather")
        return sum(found, np.zeros(link.steps.possible.shape))

    def relaid(self, link: LinkTable) -> Array:
        """Whether what is gathered has to lie as it was said to: a stack that trips slice, an argument, a result.

        It arrives with the gathered dim major-most, and is copied.
        """
        gathers = [move.masks > 0 for move in link.steps.moves if move.kind == "all_gather"]
        if self.role not in TOLD:
            return np.zeros_like(link.steps.possible)
        inner = (link.sources[:, None, 1:-1] & ~link.targets[None, :, 1:-1]).any(-1)
        return inner & np.any([*gathers, np.zeros_like(inner)], axis=0)

    def copy(self, link: LinkTable, sliced: Array, chip: Chip, mesh: MeshShape) -> Array | None:
        """The bytes of the copy that a reshard makes.

        What a collective brings to a donated argument lies beside it before it is copied over: compilers let no
        collective write into an argument.
        """
        brought = link.steps.moving
        moves = brought | sliced
        apart = (link.sources[:, None] != link.targets[None]).any(-1) | self.copied
        source, target = (held_bytes(self.aval, x, chip, mesh, self.role) for x in (link.sources, link.targets))
        target = target[None, :] * np.where(self.relaid(link), 2, 1)
        if self.role == "input":
            landed = np.where(brought, target, 0.0)
            return landed + np.where(apart, source[:, None], 0.0) if self.handed else landed
        if self.role == "value" or self.handed or self.copied:
            moves = moves if self.role == "value" and not self.handed else apart
            return np.where(moves, source[:, None], 0.0)
        if self.role in ("op", "slice", "stack", *MOVED):
            return np.where(moves, target, 0.0)
        return None


def _use(graph: Graph, i: int, held: Buffers, hidden: float) -> _Use:
    edge = graph.edges[i]
    target = graph.nodes[edge.target]
    fused = target.role in FREE_TO_CUT or (target.role == "op" and _cuts(target.rule))
    cut = edge.source in held.stored and not fused
    passing = graph.nodes[edge.source.node].role == "op" and edge.source not in held.stored
    marks = i in held.handed, i in held.copied, cut, hidden, passing
    return _Use(graph.aval(edge.source), target.role, edge.trips, *marks)


def _cuts(rule: Rule) -> bool:
    """Whether a compiler fuses a slice of an operand into the operation: elementwise chains and matmuls."""
    return rule.fusible or is_matmul(rule)


def _worked(
    graph: Graph, strategies: Sequence[Strategies], held: Buffers, model: CostModel, chip: Chip, worth: float
) -> list[tuple[Strategies, Array]]:
    """Each node's strategies that are `worth` it, and their seconds of local work, all trips.

    Places cost nothing but what their edges cost.
    """
    operands = operand_avals(graph, held.stored, held.widened, held.cut, held.beside, held.again)
    known: dict[object, tuple[Strategies, Array]] = {}

    def work(n: int, node: Node, s: Strategies) -> tuple[Strategies, Array]:
        if node.role != "op":
            return known.setdefault(id(s), (s, np.zeros(len(s))))
        kept = tuple(Port(n, r) in held.stored for r in range(len(node.avals)))
        kind = node.rule.flops, node.rule.fusible, node.rule.touched, node.rule.precision
        key = (id(s), kind, kept, tuple(sorted(operands[n].items())), node.avals, node.trips)
        if key not in known:
            s, seconds = Local(node, operands[n], kept, model, chip).worthwhile(s, worth)
            known[key] = s, node.trips * seconds
        return known[key]

    return [work(n, node, s) for n, (node, s) in enumerate(zip(graph.nodes, strategies))]


def _usages(graph: Graph, strategies: Sequence[Strategies], held: Buffers, chip: Chip) -> tuple[Array, ...]:
    """Bytes that each node's results hold, and a ring's chunks; an open sum with a place of its own is held there."""
    placed = {e.source for e in graph.edges if graph.nodes[e.target].role == "value"}
    operands = operand_avals(graph, held.stored, held.widened, held.cut, held.beside, held.again)
    known: dict[object, Array] = {}

    def usage(n: int, node: Node, s: Strategies) -> Array:
        results = () if node.role in MOVED else tuple(r for r in range(len(node.avals)) if Port(n, r) in held.stored)
        results = tuple(r for r in results if Port(n, r) not in placed)
        ringed = node.name == RINGED and node.role == "op"
        key = (id(s), node.role, results, node.avals, tuple(sorted(operands[n].items())) if ringed else ())
        if key not in known:
            bytes_of = (held_bytes(node.avals[r], s.result(r), chip, s.mesh, node.role) for r in results)
            known[key] = sum(bytes_of, flying_bytes(node, operands[n], s) if ringed else np.zeros(len(s)))
        return known[key]

    return tuple(usage(n, node, s) for n, (node, s) in enumerate(zip(graph.nodes, strategies)))


def _with_storage(work: Sequence[Array], usage: Sequence[Array], chip: Chip) -> tuple[Array, ...]:
    known: dict[object, Array] = {}

    def both(c: Array, u: Array) -> Array:
        if (id(c), id(u)) not in known:
            known[id(c), id(u)] = c + STORAGE * u / chip.hbm_bandwidth
        return known[id(c), id(u)]

    return tuple(map(both, work, usage))
