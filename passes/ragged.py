"""A ragged dot of which a device has some of the rows or some of the groups, inside of a `shard_map`.

    {x w s. y = ragged_dot x w s}          on a device that has the groups 4 to 7 becomes

    {x w s. first = sum s[:4]; t = s[4:8]; z = ragged_dot (roll x -first) w t; y = roll (z in rows below sum t) first}

Rows are taken from where the device's groups begin, and rows of other groups are zero: the results sum to the whole.
A device with some of the rows takes of each group what lies in them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from passes import jaxpr

Axes = tuple[str, ...]


def ragged(eqn: Any, params: Mapping[str, Any], rows: Axes, groups: Axes, count: int) -> Callable[..., jax.Array]:
    """What one device does for a `ragged_dot_general` whose group sizes are one vector, and whole everywhere.

    Args:
        eqn: The ragged dot; its ragged dim is free or contracted.
        params: Its params on a shard.
        rows: Mesh axes that split the ragged dim.
        groups: Mesh axes that split the groups.
        count: The number of groups of one device.
    """
    n = params["ragged_dot_dimension_numbers"]
    (lhs_c, rhs_c), (lhs_b, _) = n.dot_dimension_numbers
    d = n.lhs_ragged_dimensions[0]
    free = [k for k in range(len(eqn.invars[0].aval.shape)) if k not in (*lhs_c, *lhs_b)]

    def part(lhs: jax.Array, rhs: jax.Array, sizes: jax.Array) -> jax.Array:
        starts, ends = _within(sizes, lhs.shape[d], rows)
        if not groups:
            return jaxpr.bind(eqn, lhs, rhs, ends - starts, params=params)[0]
        starts, ends = (lax.dynamic_slice_in_dim(x, lax.axis_index(groups) * count, count) for x in (starts, ends))
        lhs = jnp.roll(lhs, -starts[0], d)
        rhs = jnp.roll(rhs, -starts[0], rhs_c[lhs_c.index(d)]) if d in lhs_c else rhs
        (out,) = jaxpr.bind(eqn, lhs, rhs, ends - starts, params=params)
        if d in lhs_c:
            return out
        dim = len(lhs_b) + free.index(d)
        own = lax.broadcasted_iota(sizes.dtype, out.shape, dim) < ends[-1] - starts[0]
        return jnp.roll(jnp.where(own, out, jnp.zeros((), out.dtype)), starts[0], dim)

    return part


def _within(sizes: jax.Array, rows: int, axes: Axes) -> tuple[jax.Array, jax.Array]:
    """Where each group begins and ends within the rows of the device."""
    ends = jnp.cumsum(sizes)
    starts = ends - sizes
    if not axes:
        return starts, ends
    first = (lax.axis_index(axes) * rows).astype(sizes.dtype)
    return jnp.clip(starts - first, 0, rows), jnp.clip(ends - first, 0, rows)
