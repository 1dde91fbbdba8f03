"""What one device does under each strategy of a node: FLOPs, bytes through HBM, bytes held. No prices here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jax.sharding import PartitionSpec

from planner.cost.hardware import Chip
from planner.graph import Aval, Graph, Node, Port
from planner.rules.rule import Rule
from planner.sharding import MeshShape, names_of, padded, shard_elements
from planner.strategy import NO_RING, Strategies

Array = np.ndarray
SUBLANE = 8
SUM_BYTES = 4
WORD = 4
SLICE = "slice"
AT_BORDER = ("input", "output", "stack")


class Read(NamedTuple):
    """An operand that is no literal.

    Attributes:
        aval: What is read.
        held: Whether it lies in HBM.
        sliced: Whether it is cut out of a stack, or widened, while it is read.
        pin: The spec with which the user passes it, if it is an argument.
    """

    aval: Aval
    held: bool
    sliced: bool = False
    pin: PartitionSpec | None = None


def ring_steps(strategies: Strategies) -> Array:
    """Chunks that a ring's matmul is cut into, 1 without a ring: shape [k]."""
    place, _, mask = strategies.rings.T
    return np.where(place == NO_RING, 1, strategies.mesh.size[np.maximum(mask, 0)])


def local_flops(rule: Rule, strategies: Strategies, chip: Chip, near: Array | bool = False) -> Array:
    """FLOPs of one device, with matmul dims padded to the chip's matrix unit: shape [k].

    Args:
        rule: Of the operation.
        strategies: Of the node.
        chip: Its matrix unit.
        near: Where the products of a ring find their operands on chip.
    """
    points = strategies.local_sizes.prod(1)
    return rule.flops * points * (_matmul_padding(rule, strategies, chip.mxu, near) if is_matmul(rule) else 1.0)


def is_matmul(rule: Rule) -> bool:
    """Two operands, a contraction, two FLOPs a point."""
    return len(rule.operands) == 2 and rule.flops == 2 and not rule.fusible


def _matmul_padding(rule: Rule, strategies: Strategies, mxu: int, near: Array | bool) -> Array:
    """A 4-wide shard of a 256-wide head costs as much as 128: contracted and output dims fill whole tiles.

    One of the two kept dims streams through it and is padded to sublanes only; a compiler streams the one that pads
    less, but not the columns that a ring cuts. From on-chip memory it does, and then filling the unit shows: that takes
    as long as a quarter of its width streams.
    """
    if mxu == 1:
        return np.ones(len(strategies))
    lhs, rhs = (_named(rule, i) for i in (0, 1))
    out = {f for dim in rule.results[0] for f in dim}
    m, n, k = (_product(strategies, f) for f in ((lhs - rhs) & out, (rhs - lhs) & out, (lhs & rhs) - out))
    least = np.where(near, mxu // 4, 0)
    rows, columns = (_waste(x, SUBLANE, least) * _waste(y, mxu) for x, y in ((m, n), (n, m)))
    cut = np.isin(strategies.rings[:, 1], sorted((rhs - lhs) & out)) & ~np.asarray(near)
    return np.where(cut, rows, np.minimum(rows, columns)) * np.where(k > 1, _waste(k, mxu), 1.0)


def _named(rule: Rule, i: int) -> set[int]:
    return {f for dim in rule.operands[i] for f in dim}


def _product(strategies: Strategies, factors: set[int]) -> Array:
    """Points of some factors; those of one step, in a ring."""
    points = strategies.local_sizes[:, sorted(factors)].prod(1)
    return points / np.where(np.isin(strategies.rings[:, 1], sorted(factors)), ring_steps(strategies), 1)


def _waste(sizes: Array, multiple: int, least: Array | int = 0) -> Array:
    return np.maximum(np.ceil(sizes / multiple) * multiple, least) / sizes


def moved_bytes(
    node: Node,
    operands: Mapping[int, Read],
    stored: Sequence[bool],
    strategies: Strategies,
    word: int = 1,
    near: Array | bool = False,
) -> Array:
    """Bytes between HBM and one device's cores: stored operands read, stored results written: shape [k].

    Args:
        node: The operation.
        operands: Those that are no literals.
        stored: For each result, whether it goes to HBM.
        strategies: The node's strategies.
        word: Fewest bytes of an element; HBM packs narrower ones, a vector unit does not.
        near: Where what stays on a device in a ring is fetched once for all products (`fetched_bytes`).
    """
    touched = node.rule.touched or (1.0,) * (len(node.rule.operands) + len(node.avals))
    first = len(node.rule.operands)
    reads = [(strategies.operand(i), read.aval, i) for i, read in sorted(operands.items()) if read.held]
    writes = [(strategies.result(r), aval, first + r) for r, aval in enumerate(node.avals) if stored[r]]
    total = np.zeros(len(strategies))
    for layouts, aval, place in reads + writes:
        elements = shard_elements(aval.shape, layouts, strategies.mesh).prod(1)
        once = near if place in operands and place < first and not operands[place].sliced else False
        total += touched[place] * max(word, aval.itemsize) * elements * _passes(strategies, place, once)
    return total


def _passes(strategies: Strategies, place: int, once: Array | bool) -> Array:
    """How often the products of a ring move what an operand or result shows, 1 without a ring: shape [k].

    What travels passes once per step, and so does an operand that has no chunks, unless it is fetched `once`.
    """
    at, factor, _ = strategies.rings.T
    steps, rule = ring_steps(strategies), strategies.rule
    if place >= len(rule.operands):
        return np.where(at == place, steps, 1)
    whole = ~np.isin(factor, [f for dim in rule.operands[place] for f in dim]) & ~np.asarray(once)
    return np.where((at == place) | whole, steps, 1)


def fetched_bytes(operands: Mapping[int, Read], strategies: Strategies, chip: Chip) -> Array:
    """Bytes that are on chip before a ring's first product, for all of them: shape [k], 0 without a ring.

    That is what stays on a device, if it fits there; but a slice of a stack is read as the products need it, as is a
    device's part of an argument that does not fit.
    """
    total, ringed = np.zeros(len(strategies)), ring_steps(strategies) > 1
    if not ringed.any():
        return total
    source = np.zeros(len(strategies))
    for i, (aval, held, sliced, pin) in sorted(operands.items()):
        if held and not sliced:
            stays = np.where(strategies.rings[:, 0] == i, 0.0, aval.itemsize)
            elements = shard_elements(aval.shape, strategies.operand(i), strategies.mesh).prod(1)
            total += stays * elements
            source += stays * np.maximum(elements, _passed(aval, pin, strategies.mesh))
    return np.where(ringed & (source <= chip.on_chip), total, 0.0)


def _passed(aval: Aval, pin: PartitionSpec | None, mesh: MeshShape) -> float:
    """Elements of an argument on one device as the user passes it; 0 where the plan decides."""
    if pin is None or pin.UNCONSTRAINED in tuple(pin):
        return 0.0
    return aval.elements / prod(int(mesh.size[mesh.mask(names_of(entry))]) for entry in pin)


def summed_bytes(node: Node, strategies: Strategies) -> Array:
    """Bytes that the additions of a ring move beside its products, as wide as the matrix unit adds: shape [k].

    A sum that stays is read and written in every step but the first. One that travels is added to the product that it
    meets: two read and one written. As compiled (libtpu 0.0.42), four of the products, if there are as many, have no
    addition of their own. The last one is always apart, as one of its terms has just arrived; it takes longer than the
    others, which take as long as 2.5 reads or writes.
    """
    at, factor, _ = strategies.rings.T
    steps, rule, aval = ring_steps(strategies), strategies.rule, node.avals[0]
    elements = shard_elements(aval.shape, strategies.result(0), strategies.mesh).prod(1)
    stays = (at < len(rule.operands)) & ~np.isin(factor, [f for dim in rule.results[0] for f in dim])
    travels = np.where(at == len(rule.operands), np.maximum(2.5 * steps - 6.5, 3), 0)
    passes = np.where(steps > 1, np.where(stays, 2 * (steps - 1), travels), 0)
    return passes * elements * max(SUM_BYTES, aval.itemsize)


def travelling_bytes(node: Node, operands: Mapping[int, Read], strategies: Strategies) -> Array:
    """Bytes of one device's whole copy of what a ring gathers or scatters: shape [k], 0 without a ring.

    A narrow weight travels as wide as it is multiplied.
    """
    total = np.zeros(len(strategies))
    for place in range(len(node.rule.operands) + 1):
        layouts = strategies.operand(place) if place < len(node.rule.operands) else strategies.result(0)
        aval = operands[place][0] if place in operands else node.avals[0]
        nbytes = np.dtype(aval.dtype).itemsize * shard_elements(aval.shape, layouts, strategies.mesh).prod(1)
        total += np.where(strategies.rings[:, 0] == place, nbytes * ring_steps(strategies), 0.0)
    return total


def flying_bytes(node: Node, operands: Mapping[int, Read], strategies: Strategies) -> Array:
    """Bytes of the chunks that a ring holds beside its operands and its result: shape [k], 0 without a ring.

    Sums that travel are two, one each way. Chunks to be gathered arrive as early as they can: schedules compiled for a
    v4 cube hold half of all.
    """
    steps, scattered = ring_steps(strategies), strategies.rings[:, 0] == len(node.rule.operands)
    chunks = np.where(scattered, np.minimum(steps - 1, 2), steps // 2)
    return travelling_bytes(node, operands, strategies) / steps * chunks


def held_bytes(aval: Aval, layouts: Array, chip: Chip, mesh: MeshShape, role: str) -> Array:
    """Bytes of one device's buffer under each layout, padded to the chip's tiles: shape [layouts]."""
    local, packed = shard_elements(aval.shape, layouts, mesh), max(1, WORD // aval.itemsize)
    return aval.itemsize * padded(local, chip.tile, role in AT_BORDER, packed)


def operand_avals(
    graph: Graph,
    stored: frozenset[Port],
    widened: frozenset[int] = frozenset(),
    cut: frozenset[int] = frozenset(),
    beside: frozenset[int] = frozenset(),
    again: Mapping[tuple[int, int], int] = MappingProxyType({}),
) -> Mapping[int, Mapping[int, Read]]:
    """For each node, for each operand, what is read.

    The operand of a matmul that is `widened` (see `planner.liveness`) has the dtype that is multiplied, and the bytes
    per element of the stored value that is read; nothing is read before. Of what is `cut`, likewise, the slice is read.
    What is computed `beside` the value that it reads reads nothing. What is read `again` (see `planner.again`) is read
    with those bytes per element.
    """
    read, on_the_fly = _itemsizes(graph, widened), widened | cut
    found: dict[int, dict[int, Read]] = {n: {} for n in range(len(graph.nodes))}
    for edge in graph.edges:
        aval, held = graph.aval(edge.source), edge.source in stored or edge.source.node in cut
        if edge.source.node in read:
            aval, held = replace(aval, itemsize=read[edge.source.node]), True
        if (place := (edge.target, edge.operand)) in again:
            aval, held = replace(aval, itemsize=again[place]), True
        sliced = edge.source.node in on_the_fly or graph.nodes[edge.source.node].role == SLICE
        moves = held and edge.target not in on_the_fly and edge.target not in beside
        found[edge.target][edge.operand] = Read(aval, moves, sliced, graph.nodes[edge.source.node].pin)
    return found


def _itemsizes(graph: Graph, widened: frozenset[int]) -> Mapping[int, int]:
    """Of the stored value that each node is computed from on the fly: the largest that it reads."""
    found: dict[int, int] = {}
    into = [e for e in graph.edges if e.target in widened]
    for edge in sorted(into, key=lambda e: (graph.nodes[e.target].time, graph.aval(e.source).elements)):
        found[edge.target] = found.get(edge.source.node, graph.aval(edge.source).itemsize)
    return found


def compute_dtype(node: Node, operands: Mapping[int, Read]) -> str:
    """The dtype whose FLOP/s rate applies: that of the widest operand, as the matrix unit takes operands."""
    avals = [read.aval for read in operands.values()] or list(node.avals)
    return max(avals, key=lambda a: (a.elements, a.itemsize)).dtype
