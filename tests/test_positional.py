"""Factors that need the position of a device are true once the shard knows it: here each primitive is told."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from equations import MESH, Claims, Equation, check, equations
from jax import lax
from samples import SAMPLES, Sample

from planner.rules import Rule
from planner.rules.local import combines, local_params, on_shards, spec_of

NOT_TOLD = ("random_bits", "random_gamma", "random_split")
"""Their bits come from counters that no public API can start anywhere but at zero."""


def dim_of(rule: Rule, factor: int) -> int:
    """The dim of operand 0, or of the result of an iota, that names the factor."""
    return next(d for d, dim in enumerate((rule.operands or rule.results)[0]) if factor in dim)


def iota(equation: Equation, params: Any, rule: Rule, factor: int, place: Any) -> Any:
    return equation.bind(**params) + place * (rule.sizes[factor] // 4)


def lookup(equation: Equation, params: Any, rule: Rule, factor: int, place: Any, *operands: Any) -> Any:
    """Rows that others hold become zero: the sum over devices is the row."""
    table, indices = operands
    component = params["dimension_numbers"].start_index_map.index(d := dim_of(rule, factor))
    indices = indices.at[..., component].add(-place * table.shape[d])
    mine = (indices[..., component] >= 0) & (indices[..., component] < table.shape[d])
    out = equation.bind(table, jnp.clip(indices, 0), **params)
    offsets = params["dimension_numbers"].offset_dims
    return jnp.where(jnp.expand_dims(mine, offsets), out, 0)


def scatter(equation: Equation, params: Any, rule: Rule, factor: int, place: Any, *operands: Any) -> Any:
    """Updates that others hold are dropped; an operand that all hold is counted once."""
    table, indices, updates = operands
    params = {**params, "mode": lax.GatherScatterMode.FILL_OR_DROP}
    if factor in rule.reduced:
        neutral = jnp.full_like(table, {"sum": 0, "mul": 1}[rule.reduced[factor]])
        return equation.bind(jnp.where(place == 0, table, neutral), indices, updates, **params)
    component = params["dimension_numbers"].scatter_dims_to_operand_dims.index(d := dim_of(rule, factor))
    local = indices[..., component] - place * table.shape[d]
    beyond = jnp.where(local < 0, table.shape[d], local)
    return equation.bind(table, indices.at[..., component].set(beyond), updates, **params)


def update(equation: Equation, params: Any, rule: Rule, factor: int, place: Any, *operands: Any) -> Any:
    """The owner of the position writes, the others keep what they have."""
    table, new, *starts = operands
    start = starts[d := dim_of(rule, factor)] - place * table.shape[d]
    starts[d] = jnp.clip(start, 0, table.shape[d] - 1)
    out = equation.bind(table, new, *starts, **params)
    return jnp.where((start >= 0) & (start < table.shape[d]), out, table)


def grouped(equation: Equation, params: Any, rule: Rule, factor: int, place: Any, *operands: Any) -> Any:
    """Each row knows its group: those of other devices, of rows or of groups, are zero on one side."""
    lhs, rhs, sizes = operands
    n, left = params["ragged_dot_dimension_numbers"], factor in {f for dim in rule.operands[0] for f in dim}
    d = n.lhs_ragged_dimensions[0]
    ends = jnp.cumsum(sizes)
    if left:
        below = [jnp.clip(x - place * lhs.shape[d], 0, lhs.shape[d]) for x in (ends, ends - sizes)]
        return equation.bind(lhs, rhs, below[0] - below[1], **params)
    whole = rhs if not n.rhs_group_dimensions else lax.all_gather(rhs, "y", axis=n.rhs_group_dimensions[0], tiled=True)
    out, many = equation.bind(lhs, whole, sizes, **params), len(sizes) // 4
    if not n.rhs_group_dimensions:
        return lax.dynamic_slice_in_dim(out, place * many, many)
    group = jnp.searchsorted(ends, jnp.arange(lhs.shape[d]), side="right") // many
    return jnp.where(jnp.expand_dims(group == place, range(1, out.ndim)), out, 0)


TOLD = {"iota": iota, "gather": lookup, "dynamic_update_slice": update, "ragged_dot_general": grouped} | {
    name: scatter for name in ("scatter", "scatter-add", "scatter-mul", "scatter-max", "scatter-min")
}


def told(equation: Equation, rule: Rule, factor: int) -> list[Any]:
    assignment = {factor: ("y",)}
    params = local_params(rule, equation.params, {factor: 4})

    def shard(*operands: Any) -> Any:
        place = lax.axis_index("y")
        out = TOLD[equation.name](equation, params, rule, factor, place, *operands)
        for how, axes in combines(rule, assignment):
            out = lax.psum(out, axes) if how == "sum" else lax.all_gather(out, axes).prod(0)
        return out

    in_specs = tuple(spec_of(dims, assignment) for dims in rule.operands)
    out_specs = spec_of(rule.results[0], assignment)
    fun = jax.shard_map(shard, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    return [fun(*equation.operands)]


def positional(rule: Rule) -> list[int]:
    return [f for f in rule.splittable() if f in rule.positional and rule.sizes[f] % 4 == 0]


def claims(equation: Equation) -> Claims:
    rule = equation.rule()
    factors = positional(rule) if equation.name not in NOT_TOLD else []
    return [(f"factor {f}", told(equation, rule, f)) for f in factors]


SOME = """iota; one_hot; embedding; embedding gradient; columns; two indices; take_along_axis;
    cross entropy; vmap of a lookup; vmap of a gradient; vmap over tables; at set; at add; at add columns; at mul;
    at max; at min; cache update; ragged; ragged gradients; ragged contraction; ragged of four"""


@pytest.mark.parametrize("name", [name.strip() for name in SOME.split(";")])
def test_a_shard_that_knows_its_place_computes_its_shard(name: str) -> None:
    (sample,) = (sample for sample in SAMPLES if sample.name == name)
    assert check(lambda *args: equations(sample.fun, *args), claims, *sample.args) > 0


def test_every_primitive_with_positional_factors_is_told_or_listed() -> None:
    names: dict[str, None] = {}

    def visit(sample: Sample, *args: Any) -> int:
        names.update((e.name, None) for e in equations(sample.fun, *args) if positional(e.rule()))
        return 0

    for sample in SAMPLES:
        jax.eval_shape(partial(visit, sample), *sample.args)
    assert set(names) == {*TOLD, *NOT_TOLD}


def test_a_shard_alone_refuses_positional_factors() -> None:
    (equation,) = equations(lambda: jnp.arange(8))
    with pytest.raises(ValueError, match="cannot be split on shards alone"):
        on_shards(equation.bind, equation.rule(), equation.params, {0: ("x",)}, MESH)
