"""Layouts that people know by name, as restrictions of the same integer program.

A layout says which mesh axes split the rows (batch), the model dim and the other dim of every large matmul with a
weight; everything it leaves open is still optimised, so each is shown at its best. Found by structure alone: a weight
is what a program's arguments hand to a contraction, and the model dim is the size that most weights have on one side.

    data parallel          rows xyz                 weights replicated
    FSDP                   rows xyz                 weights stored split over all axes
    1-D weight-stationary  other xyz
    Megatron 1-D           other xyz                model dim of activations never split
    2-D weight-stationary  model x, other yz
    weight-gathered x      rows x, other yz         weights stored model x, other yz    (and xy, xyz)

Pope et al. 2022, section 3.2; Shoeybi et al. 2019 (Megatron); Rajbhandari et al. 2020 (ZeRO, as FSDP).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.formulate import Formulation
from planner.graph import Graph, Port
from planner.strategy import REPEAT, Strategies
from planner.work import is_matmul

Array = np.ndarray
LARGE = 0.02


@dataclass(frozen=True)
class Layout:
    """A named layout: masks of mesh axes.

    Attributes:
        rows: Axes that split the rows of every large matmul.
        model: Axes that split the model dim.
        other: Axes that split the other dim of the weight.
        stored: How weights are stored: (model, other) masks, "any" or "all axes".
        whole_model: Whether activations must keep the model dim whole.
    """

    name: str
    rows: int = 0
    model: int = 0
    other: int = 0
    stored: "tuple[int, int] | str" = "any"
    whole_model: bool = False


@dataclass(frozen=True)
class WeightMatmul:
    """A contraction with a weight: factors of its rows, of the model dim and of the weight's other dim."""

    node: int
    weight: int
    operand: int
    rows: tuple[int, ...]
    model: tuple[int, ...]
    other: tuple[int, ...]


def layouts(axes: int) -> tuple[Layout, ...]:
    """The known layouts on a mesh with a number of axes. Equal names are variants, of which the best counts."""
    every = (1 << axes) - 1
    split = [(m, every ^ m) for m in range(1, every)]
    prefixes = [(1 << i) - 1 for i in range(1, axes + 1)]
    return (
        Layout("data parallel", rows=every, stored=(0, 0)),
        Layout("FSDP", rows=every, stored="all axes"),
        Layout("1-D weight-stationary", other=every),
        Layout("Megatron 1-D", other=every, whole_model=True),
        *(Layout("2-D weight-stationary", model=m, other=o) for m, o in split),
        *(
            Layout(f"weight-gathered {i + 1}/{axes}", rows=n, other=every ^ n, stored=(1, every ^ 1))
            for i, n in enumerate(prefixes)
        ),
    )


def weight_matmuls(graph: Graph) -> tuple[WeightMatmul, ...]:
    """The matmuls that hold more than a fiftieth of the largest weight."""
    roots = _roots(graph)
    found = list(_weight_matmuls(graph, roots))
    streamed = _streamed(graph, found, roots)
    found = [w for w in found if w.weight not in streamed]
    largest = max((_elements(graph, w) for w in found), default=0.0)
    found = [w for w in found if _elements(graph, w) > LARGE * largest]
    model = _model_size(graph, found)
    return tuple(_oriented(graph, w, model) for w in found)


def weights_read(graph: Graph) -> frozenset[int]:
    """The matmuls that read an argument as it is, however small: all but those between activations."""
    return frozenset(w.node for w in _weight_matmuls(graph, _roots(graph)))


def _streamed(graph: Graph, found: Sequence[WeightMatmul], roots: Mapping[Port, int]) -> set[int]:
    """Arguments that meet a weight: they are no weights, also where a gradient contracts them over their rows."""
    weight_of = {w.node: w.operand for w in found}
    meets = (e for e in graph.edges if e.source in roots and e.operand != weight_of.get(e.target, e.operand))
    return {roots[e.source] for e in meets}


def _elements(graph: Graph, w: WeightMatmul) -> float:
    return graph.nodes[w.weight].avals[0].elements


def _roots(graph: Graph) -> Mapping[Port, int]:
    """For each port that is an argument, or one argument seen through places and unary operations, that argument."""
    sources: dict[int, list[Port]] = {}
    for edge in graph.edges:
        sources.setdefault(edge.target, []).append(edge.source)
    roots: dict[Port, int] = {Port(n): n for n, node in enumerate(graph.nodes) if node.role == "input"}
    for _ in range(len(graph.nodes)):
        new = {
            Port(n): roots[s[0]]
            for n, s in sources.items()
            if Port(n) not in roots and len(s) == 1 and s[0] in roots and graph.nodes[n].rule.fusible
        }
        if not new:
            break
        roots.update(new)
    return roots


def _weight_matmuls(graph: Graph, roots: Mapping[Port, int]) -> Iterator[WeightMatmul]:
    pure: dict[int, list[tuple[int, int]]] = {}
    for e in graph.edges:
        if e.source in roots:
            pure.setdefault(e.target, []).append((e.operand, roots[e.source]))
    found = (_weight_matmul(graph, n, pure.get(n, [])) for n in range(len(graph.nodes)))
    return (w for w in found if w is not None)


def _weight_matmul(graph: Graph, n: int, pure: Sequence[tuple[int, int]]) -> WeightMatmul | None:
    rule = graph.nodes[n].rule
    if graph.nodes[n].role != "op" or not is_matmul(rule):
        return None
    named = [[f for dim in dims for f in dim] for dims in rule.operands]
    out = [f for dim in rule.results[0] for f in dim]
    if not pure or set(named[0]) & set(named[1]) & set(out):
        return None
    operand, weight = max(pure)  # of two arguments the second, as in x @ w
    contracted = tuple(f for f in named[operand] if f not in out)
    kept = tuple(f for f in named[operand] if f in out)
    return WeightMatmul(n, weight, operand, tuple(f for f in named[1 - operand] if f in out), contracted, kept)


def _model_size(graph: Graph, found: Sequence[WeightMatmul]) -> int:
    """The size that most weights have on one side; of two, as in an MLP alone, the smaller."""
    votes: Counter[int] = Counter()
    for w in found:
        for side in (w.model, w.other):
            if len(side) == 1:
                votes[graph.nodes[w.node].rule.sizes[side[0]]] += 1
    return max(votes, key=lambda size: (votes[size], -size), default=0)


def _oriented(graph: Graph, w: WeightMatmul, model: int) -> WeightMatmul:
    sizes = [graph.nodes[w.node].rule.sizes[f] for f in w.model]
    return w if sizes == [model] else replace(w, model=w.other, other=w.model)


def allowed(formulation: Formulation, layout: Layout, weights: Sequence[WeightMatmul]) -> dict[int, Array]:
    """Masks of the strategies that the layout allows, by node; of the other nodes it allows all."""
    graph = formulation.graph
    masks: dict[int, Array] = {}
    for n, mask in _matmuls(formulation, layout, weights):
        masks[n] = mask & masks.get(n, np.ones(len(mask), bool))
    if layout.whole_model and weights:
        size = graph.nodes[weights[0].node].rule.sizes[weights[0].model[0]]
        masks |= {n: formulation.strategies[n].result(0)[:, -2] == 0 for n in _activations(graph, size)}
    return masks


def _activations(graph: Graph, size: int) -> Iterator[int]:
    for n, node in enumerate(graph.nodes):
        shape = node.avals[0].shape if node.avals else ()
        if node.role in ("value", "carry", "copy") and len(shape) > 1 and shape[-1] == size:
            yield n


def _matmuls(formulation: Formulation, layout: Layout, weights: Sequence[WeightMatmul]) -> Iterator[tuple[int, Array]]:
    """Equal matmuls share their masks."""
    known: dict[object, tuple[Array, Array]] = {}
    for w in weights:
        ends = (id(formulation.strategies[w.node]), id(formulation.strategies[w.weight]))
        key = (*ends, w.operand, w.rows, w.model, w.other)
        if key not in known:
            known[key] = _worked(formulation.strategies[w.node], layout, w), _stored(formulation, layout, w)
        yield w.node, known[key][0]
        yield w.weight, known[key][1]


def _worked(strategies: Strategies, layout: Layout, w: WeightMatmul) -> Array:
    parts = ((w.rows, layout.rows), (w.model, layout.model), (w.other, layout.other))
    wanted = dict(job for factors, mask in parts for job in _job(strategies, factors, mask))
    axes = range(strategies.jobs.shape[1])
    mask: Array = np.all([strategies.jobs[:, a] == wanted.get(a, REPEAT) for a in axes], axis=0)
    return mask


def _job(strategies: Strategies, factors: Sequence[int], mask: int) -> list[tuple[int, int]]:
    """Which factor each axis of a mask splits: the first ones while they divide, then the next."""
    splittable = strategies.rule.splittable()
    jobs, left = [], {f: strategies.rule.sizes[f] for f in factors if f in splittable}
    for axis, size in enumerate(strategies.mesh.sizes):
        if mask >> axis & 1:
            factor = next((f for f in left if left[f] % size == 0), REPEAT)
            jobs.append((axis, factor))
            if factor != REPEAT:
                left[factor] //= size
    return jobs


def _stored(formulation: Formulation, layout: Layout, w: WeightMatmul) -> Array:
    strategies = formulation.strategies[w.weight]
    held = strategies.result(0)
    union = np.bitwise_or.reduce(held[:, :-1], axis=1)
    if layout.stored == "any":
        return np.ones(len(held), bool)
    if layout.stored == "all axes":
        return union == union.max()
    assert not isinstance(layout.stored, str)
    rule = formulation.graph.nodes[w.node].rule
    dims, lead = rule.operands[w.operand], held.shape[1] - 1 - len(rule.operands[w.operand])
    wanted = dict.fromkeys(range(held.shape[1] - 1), 0)
    for factors, mask in ((w.model, layout.stored[0]), (w.other, layout.stored[1])):
        at = next(d for d, dim in enumerate(dims) if factors[0] in dim)
        wanted[lead + at] = mask
    return np.all([held[:, d] == mask for d, mask in wanted.items()], axis=0)
