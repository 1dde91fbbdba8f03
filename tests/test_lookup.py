"""Lookups in tables whose rows lie on several devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P
from programs import mesh

from passes.jaxpr import walk
from passes.lookup import lookup
from planner import autoshard, testing

MESH = mesh(2, 4)
QUICK = {"xla_backend_optimization_level": 0}
draw = np.random.default_rng(0)
TABLE = draw.normal(size=(4, 16)).astype(np.float32)
ROWS = np.array([3, -1, 15, 16, 40, -17, 0, 9], np.int32)


def check(fun, table, rows, axes, dims):
    """`fun(table, rows)`, one gather, with dims of the table split over axes, against the whole."""
    eqn = next(eqn for _, eqn in walk(jax.make_jaxpr(fun)(table, rows)) if eqn.primitive.name == "gather")
    spec = P(*(axes[dims.index(d)] if d in dims else None for d in range(table.ndim)))
    split = {d: (axes[i] if isinstance(axes[i], tuple) else (axes[i],), table.shape[d]) for i, d in enumerate(dims)}
    sizes = [1 if d in eqn.params["dimension_numbers"].collapsed_slice_dims else n for d, n in enumerate(table.shape)]
    local = lookup(eqn, {**eqn.params, "slice_sizes": tuple(sizes)}, split)
    names = tuple(name for axes, _ in split.values() for name in axes)
    summed = jax.shard_map(
        lambda t, i: lax.psum(local(t, i), names), mesh=MESH, in_specs=(spec, P()), out_specs=P(), check_vma=False
    )
    rows = np.atleast_2d(rows.T).T
    whole = eqn.primitive.bind(table, rows, **eqn.params)
    np.testing.assert_array_equal(np.asarray(summed(table, rows), np.float64), np.asarray(whole, np.float64))


@pytest.mark.parametrize("mode", ["fill", "clip", "wrap"])
@pytest.mark.parametrize("axes", [("y",), (("x", "y"),)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, jnp.bfloat16])
def test_shards_sum_to_the_whole(mode, axes, dtype):
    rows = ROWS % 16 if mode == "wrap" else ROWS  # which promises that they are in bounds
    check(partial(jnp.take, axis=1, mode=mode), jnp.asarray(3 * TABLE, dtype), rows, axes, (1,))


@pytest.mark.parametrize("mode", ["fill", "clip"])
def test_two_dims_may_be_split(mode):
    rows = np.array([[0, 0], [3, 15], [4, 2], [1, 16], [9, 99], [-1, 3]], np.int32)
    check(lambda t, i: t.at[i[:, 0], i[:, 1]].get(mode=mode, wrap_negative_indices=False), TABLE, rows, "xy", (0, 1))


def test_unsigned_indices_are_compared_too():
    check(partial(jnp.take, axis=1, mode="clip"), TABLE, np.array([3, 15, 200], np.uint8), ("y",), (1,))


def test_a_planned_lookup_is_scattered_as_planned():
    """jaxlib 0.10.2 gives wrong rows when it is only asked to split this result like this (2×4 devices)."""
    fun = autoshard(
        lambda t, i: jnp.take(t, i, axis=1),
        mesh=MESH,
        machine=testing.EAGER,
        in_shardings=(P(None, "x"), P("y")),
        out_shardings=P("x", "y"),
    )
    rows = np.array([3, 9, 15, 1], np.int32)
    np.testing.assert_array_equal(fun(TABLE, rows), TABLE[:, rows])
    assert {c.kind for c in fun.plan(TABLE, rows).collectives} == {"reduce_scatter"}
    names = [eqn.primitive.name for _, eqn in walk(fun.trace(TABLE, rows).jaxpr)]
    assert "reduce_scatter" in names


def test_gradients_go_through():
    def fun(t, i):
        return jnp.tanh(jnp.take(t, i, axis=0))

    options = {"mesh": MESH, "machine": testing.EAGER, "compiler_options": QUICK, "in_shardings": (P("y"), P())}
    testing.assert_equivalent(fun, TABLE.T, ROWS[:1], **options)
    ours = autoshard(fun, **options)
    slope = [jax.grad(lambda t, f=f: jnp.sum(jnp.nan_to_num(f(t, ROWS))))(TABLE.T) for f in (fun, ours)]
    np.testing.assert_allclose(*slope, rtol=1e-5)
