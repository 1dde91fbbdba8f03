"""A plan in the paper's words: which feed-forward layout it is, and how attention is split."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from planner.formulate import Formulation
from planner.layouts import WeightMatmul, weight_matmuls
from planner.work import is_matmul


def describe(formulation: Formulation, choice: Sequence[int], batch: int) -> tuple[str, str]:
    """Feed-forward layout ("WS 2D", "WG XYZ" …) and attention split ("batch", "head", "sequence")."""
    weights = weight_matmuls(formulation.graph)
    largest = max(weights, key=lambda w: formulation.graph.nodes[w.weight].avals[0].elements)
    return _ffn(formulation, choice, largest), _attention(formulation, choice, weights, batch)


def _ffn(formulation: Formulation, choice: Sequence[int], w: WeightMatmul) -> str:
    masks, mesh = formulation.strategies[w.node].factor_masks[choice[w.node]], formulation.mesh
    rows, model, other = (int(np.bitwise_or.reduce(masks[list(f)])) for f in (w.rows, w.model, w.other))
    if rows:
        return f"WG {''.join(mesh.axes(rows)).upper()}"
    return "WS 2D" if model and other else "WS 1D"


def _attention(formulation: Formulation, choice: Sequence[int], weights: Sequence[WeightMatmul], batch: int) -> str:
    """The dim that the matmuls between activations split over most devices."""
    votes: Counter[str] = Counter()
    for kind, devices in _splits(formulation, choice, {w.node for w in weights}, batch):
        votes[kind] = max(votes[kind], devices)
    return max(sorted(votes), key=lambda kind: votes[kind]) if votes else "not split"


def _splits(formulation: Formulation, choice: Sequence[int], outer: set[int], batch: int) -> Iterator[tuple[str, int]]:
    """For each factor of each matmul between activations, what it is and over how many devices it is split."""
    for n, node in enumerate(formulation.graph.nodes):
        if node.role != "op" or not is_matmul(node.rule) or n in outer:
            continue
        named = [{f for dim in dims for f in dim} for dims in (*node.rule.operands, *node.rule.results)]
        shared = set.intersection(*named)
        for f, mask in enumerate(formulation.strategies[n].factor_masks[choice[n]]):
            if mask:
                yield (
                    _kind(f, node.rule.sizes[f], shared, batch, len(node.rule.operands[0])),
                    int(formulation.mesh.size[mask]),
                )


def _kind(factor: int, size: int, shared: set[int], batch: int, rank: int) -> str:
    if size == batch and (factor in shared or not shared):
        return "batch"
    return "head" if size < 1024 else "sequence"
