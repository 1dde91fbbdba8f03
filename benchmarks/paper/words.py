"""A plan in the paper's words: which feed-forward layout it is, and how attention is split.

Both are read off strategies, all of a node's at once: `describe` names a choice, `rivals` allows but one name.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from planner.formulate import Formulation
from planner.layouts import WeightMatmul, weight_matmuls, weights_read
from planner.strategy import Strategies
from planner.work import is_matmul

Array = np.ndarray
FFN = ("WS 1D", "WS 2D", "WG X", "WG XY", "WG XYZ")
ATTENTION = ("head", "batch", "sequence")
LONG = 1024
"""Dims of attention at least this long are sequences."""


def describe(formulation: Formulation, choice: Sequence[int], batch: int) -> tuple[str, str]:
    """Feed-forward layout ("WS 2D", "WG XYZ" …) and attention split ("batch", "head", "sequence")."""
    ffn = feed_forward(formulation)[0]
    devices = sum(attention_split(formulation, n, batch)[choice[n]] for n in attention(formulation))
    return str(ffn_words(formulation.strategies[ffn.node], ffn)[choice[ffn.node]]), ATTENTION[int(np.argmax(devices))]


def feed_forward(formulation: Formulation) -> list[WeightMatmul]:
    """The matmuls with the largest weights."""
    graph, found = formulation.graph, weight_matmuls(formulation.graph)
    largest = max(graph.nodes[w.weight].avals[0].elements for w in found)
    layers = [w for w in found if graph.nodes[w.node].trips == max(graph.nodes[v.node].trips for v in found)]
    return [w for w in layers if graph.nodes[w.weight].avals[0].elements == largest] or layers


def ffn_words(strategies: Strategies, w: WeightMatmul) -> Array:
    """The layout's name under each strategy: array of str of shape [k]."""
    rows, model, other = (np.bitwise_or.reduce(strategies.factor_masks[:, list(f)], axis=1) for f in _roles(w))
    axes = np.array(["XYZ"[: m.bit_count()] for m in range(1 << len(strategies.mesh.sizes))])  # axes are alike
    stationary = np.where((model > 0) & (other > 0), "WS 2D", "WS 1D")
    return np.where(rows > 0, np.char.add("WG ", axes[rows]), stationary)


def _roles(w: WeightMatmul) -> tuple[tuple[int, ...], ...]:
    return w.rows, w.model, w.other


def attention(formulation: Formulation) -> Iterator[int]:
    """The matmuls between activations."""
    reads = weights_read(formulation.graph)
    for n, node in enumerate(formulation.graph.nodes):
        if node.role == "op" and is_matmul(node.rule) and n not in reads:
            yield n


def attention_split(formulation: Formulation, n: int, batch: int) -> Array:
    """Devices that each kind of dim in ATTENTION is split over, under each strategy: int array of shape [k, 3]."""
    rule, strategies = formulation.graph.nodes[n].rule, formulation.strategies[n]
    shared = set.intersection(*({f for dim in dims for f in dim} for dims in (*rule.operands, *rule.results)))
    kinds = [_kind(size, f in shared or not shared, batch) for f, size in enumerate(rule.sizes)]
    masks = [[f for f, kind in enumerate(kinds) if kind == name] for name in ATTENTION]
    joint = [np.bitwise_or.reduce(strategies.factor_masks[:, f], axis=1) for f in masks]
    return np.stack([strategies.mesh.size[m] for m in joint], axis=1)


def _kind(size: int, shared: bool, batch: int) -> str:
    if size == batch and shared:
        return "batch"
    return "head" if size < LONG else "sequence"
