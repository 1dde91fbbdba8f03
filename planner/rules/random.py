"""Random bits and keys: dims of the keys are free, new dims depend on the position of the shard.

JAX's counter-based generators give each element its own counter, so XLA may split new dims without communication
(`jax_threefry_partitionable`, the default), but a shard run alone would count from zero.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.rules.elementwise import elementwise
from planner.rules.labels import Shapes, Whole, labelled
from planner.rules.registry import register
from planner.rules.rule import Rule

BLOCK = 100.0
"""Integer operations for one output of threefry2x32: 20 rounds of an add, a rotation and a xor, and key injections."""


def _local_shape(params: Mapping[str, Any], operands: Shapes, results: Shapes) -> Mapping[str, Any]:
    return {**params, "shape": tuple(results[0][len(operands[0]) :])}


@register("random_bits", "random_split")
def random_bits(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Bits of shape `shape`, or new keys, for each key."""
    keys, result = range(len(in_shapes[0])), range(len(out_shapes[0]))
    return labelled(
        [keys],
        [result],
        in_shapes,
        out_shapes,
        positional=result[len(keys) :],
        work=BLOCK,
        fusible=True,
        localise=_local_shape,
    )


@register("threefry2x32", "threefry4x32", "philox2x32", "philox4x32", "random_fold_in")
def per_element(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """One output for each element of the operands."""
    return elementwise(in_shapes, out_shapes, BLOCK)


@register("random_gamma")
def random_gamma(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """A draw for each element, with a key of its own that is split off by position where one key serves many."""
    rule = elementwise(in_shapes, out_shapes, BLOCK)
    own = {f for dim in rule.operands[0] for f in dim}
    return replace(rule, positional=frozenset(range(len(rule.sizes))) - own)


@register("random_seed", "random_wrap", "random_unwrap", "to_edtype", "from_edtype")
def words(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """Seeds and raw words to keys and back; the words of one key are whole."""
    rank = min(len(in_shapes[0]), len(out_shapes[0]))
    extra = max(len(in_shapes[0]), len(out_shapes[0])) - rank
    row = [*range(rank), *(Whole("word", d) for d in range(extra))]
    operand, result = row[: len(in_shapes[0])], row[: len(out_shapes[0])]
    return labelled([operand], [result], in_shapes, out_shapes, fusible=True)


@register("iota_2x32_shape")
def counters(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """A counter for each element, in two words: what a shard counts depends on where it stands."""
    rows = [range(len(out_shapes[0]))] * 2
    return labelled([], rows, in_shapes, out_shapes, positional=rows[0], fusible=True, localise=_local_counters)


def _local_counters(params: Mapping[str, Any], _: Shapes, results: Shapes) -> Mapping[str, Any]:
    return {**params, "shape": tuple(results[0])}


@register("rng_bit_generator", "rng_uniform")
def stateful(in_shapes: Shapes, out_shapes: Shapes, **_: Any) -> Rule:
    """The hardware's own generator: no law says what a shard of its output is."""
    operands = [[Whole(("in", i), d) for d in range(len(shape))] for i, shape in enumerate(in_shapes)]
    results = [[Whole(("out", i), d) for d in range(len(shape))] for i, shape in enumerate(out_shapes)]
    return labelled(operands, results, in_shapes, out_shapes)
