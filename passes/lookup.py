"""A lookup in a table whose rows lie on several devices, inside of a `shard_map`.

    {t i. a = gather t i}          on a device that has rows 8 to 15 becomes

    {t i. j = sub i 8; m = and (ge j 0) (lt j 8); b = gather t (clamp 0 j 7); a = select m b 0.0}

Every device looks up what it has and puts zero for the rest: the results sum to the lookup. What lies outside of the
whole table is filled by the first device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from passes import jaxpr

Rows = Mapping[int, tuple[tuple[str, ...], int]]
"""For each split dim of the table, the mesh axes that split it and its size as a whole."""


def lookup(eqn: Any, params: Mapping[str, Any], rows: Rows) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What one device does for a `gather`: its summand, from its shard of the table and its indices.

    Args:
        eqn: The gather. Dims in `rows` are looked up one row at a time.
        params: Its params on a shard.
        rows: Which dims of the table are split.
    """
    n, mode = params["dimension_numbers"], lax.GatherScatterMode.from_any(params["mode"])

    def summand(table: jax.Array, indices: jax.Array) -> jax.Array:
        if not jnp.issubdtype(indices.dtype, jnp.signedinteger):
            indices = indices.astype(jnp.int32)
        mine = jnp.ones(indices.shape[:-1], bool)
        for d, (axes, size) in rows.items():
            column = n.start_index_map.index(d)
            here, row = _local(indices[..., column], mode, lax.axis_index(axes), table.shape[d], size)
            indices, mine = indices.at[..., column].set(row), mine & here
        (found,) = jaxpr.bind(eqn, table, indices, params=params)
        batch = [d for d in range(found.ndim) if d not in n.offset_dims]
        return jnp.where(lax.broadcast_in_dim(mine, found.shape, batch), found, jnp.zeros((), found.dtype))

    return summand


def _local(wanted: jax.Array, mode: Any, device: Any, rows: int, size: int) -> tuple[jax.Array, jax.Array]:
    """Whether the device answers for each row, and where in its shard."""
    if mode == lax.GatherScatterMode.CLIP:
        wanted = jnp.clip(wanted, 0, size - 1)
    row = wanted - (device * rows).astype(wanted.dtype)
    held = (row >= 0) & (row < rows)
    if mode != lax.GatherScatterMode.FILL_OR_DROP:
        return held, jnp.clip(row, 0, rows - 1)
    outside = (wanted < 0) | (wanted >= size)
    return held | (outside & (device == 0)), jnp.where(outside, -1, jnp.clip(row, 0, rows - 1))
