"""The local computation of an equation: what one device does with its shards.

An assignment gives mesh axes to factors. It says the spec of every operand and result, the params of the primitive
on a shard, and which collectives make partial results whole.
"""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import jax
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from planner.rules.rule import Dims, Rule, Shape

Axes = tuple[str, ...]
Assignment = Mapping[int, Axes]
"""Factor → the mesh axes that split it, major to minor. Factors that are not split are absent."""


def spec_of(dims: Dims, assignment: Assignment) -> PartitionSpec:
    """The spec of an array under an assignment, one entry per dim up to the last split one."""
    entries = [tuple(axis for f in dim for axis in assignment.get(f, ())) for dim in dims]
    while entries and not entries[-1]:
        entries.pop()
    return PartitionSpec(*(e[0] if len(e) == 1 else e or None for e in entries))


def shard_shape(dims: Dims, sizes: Sequence[int], ways: Mapping[int, int]) -> Shape:
    """The shape of one shard where factor `f` is split `ways[f]` ways.

    Raises:
        ValueError: If a factor's size is not divisible.
    """
    for f, n in ways.items():
        if sizes[f] % n:
            raise ValueError(f"factor {f} of size {sizes[f]} cannot be split {n} ways; split it by a divisor")
    return tuple(prod(sizes[f] // ways.get(f, 1) for f in dim) for dim in dims)


def local_params(rule: Rule, params: Mapping[str, Any], ways: Mapping[int, int]) -> dict[str, Any]:
    """Params of the primitive on a shard where factor `f` is split `ways[f]` ways."""
    operands = [shard_shape(dims, rule.sizes, ways) for dims in rule.operands]
    results = [shard_shape(dims, rule.sizes, ways) for dims in rule.results]
    return dict(rule.localise(params, operands, results))


def combines(rule: Rule, assignment: Assignment) -> tuple[tuple[str, Axes], ...]:
    """How partial results become whole, by factor: `("sum", ("x",))` is a psum over x."""
    return tuple((how, assignment[f]) for f, how in sorted(rule.reduced.items()) if f in assignment)


def on_shards(
    bind: Callable[..., Any],
    rule: Rule,
    params: Mapping[str, Any],
    assignment: Assignment,
    mesh: Mesh | AbstractMesh,
) -> Callable[..., tuple[jax.Array, ...]]:
    """The equation, computed on shards and gathered: equal to the equation itself if the rule is true.

    Args:
        bind: The primitive's bind.
        rule: The equation's rule.
        params: The equation's params.
        assignment: Splittable, non-positional factors → mesh axes.
        mesh: The mesh, all axes of which become manual.

    Raises:
        ValueError: If the assignment splits a factor that it must not.
    """
    free = set(rule.splittable()) - rule.positional
    if refused := sorted(set(assignment) - free):
        raise ValueError(f"factors {refused} cannot be split on shards alone; only {sorted(free)} can")
    ways = {f: prod(mesh.shape[axis] for axis in axes) for f, axes in assignment.items()}
    local = local_params(rule, params, ways)

    def shard(*operands: jax.Array) -> tuple[jax.Array, ...]:
        out = bind(*operands, **local)
        results = tuple(out) if isinstance(out, (list, tuple)) else (out,)
        for how, axes in combines(rule, assignment):
            results = tuple(_COLLECTIVES[how](result, axes) for result in results)
        return results

    in_specs = tuple(spec_of(dims, assignment) for dims in rule.operands)
    out_specs = tuple(spec_of(dims, assignment) for dims in rule.results)
    return jax.shard_map(shard, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _any(x: jax.Array, axes: Axes) -> jax.Array:
    """Booleans and bit patterns alike: no collective has a bitwise or."""
    return lax.reduce_or(lax.all_gather(x, axes), (0,))


def _all(x: jax.Array, axes: Axes) -> jax.Array:
    return lax.reduce_and(lax.all_gather(x, axes), (0,))


def _product(x: jax.Array, axes: Axes) -> jax.Array:
    return lax.reduce_prod(lax.all_gather(x, axes), (0,))


_COLLECTIVES: dict[str, Callable[[Any, Axes], Any]] = {
    "sum": lax.psum,
    "max": lax.pmax,
    "min": lax.pmin,
    "mul": _product,
    "or": _any,
    "and": _all,
}
