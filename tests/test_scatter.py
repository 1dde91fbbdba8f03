"""Sums scattered over devices: every form arrives as the sum, and is the form that a TPU compiler keeps."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from programs import mesh

from passes import jaxpr
from passes.moves import move
from passes.scatter import LARGE, filled, reduce_scatter
from passes.way import Shard

MESH = mesh(2, 2, 2)
SIZES = dict(MESH.shape)


def primitives(fun, x):
    """Names in order, with params, of what is inside of a `shard_map`."""
    return [(jaxpr.primitive_name(eqn), eqn.params) for _, eqn in jaxpr.walk(jax.make_jaxpr(fun)(x))]


@pytest.mark.parametrize(
    ("shape", "dim", "orders"),
    [((32, 4, 128), 0, [(0, 2, 1, 3)]), ((2, 32, 3, 128), 1, [(0, 2, 3, 1, 4)]), ((8, 3, 128), 0, [])],
    ids=["heads", "sequences of heads", "less than a tile"],
)
def test_rows_are_scattered_from_behind_the_short_dims_that_follow(shape, dim, orders):
    """Each device's rows are whole tiles; merged with a short dim they would lie anew in memory."""
    whole = Shard(((),) * len(shape), frozenset("xy"))
    want = replace(whole, dims=tuple(("x", "y") if d == dim else () for d in range(len(shape))), open=frozenset())
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    moved = jax.shard_map(
        lambda x: move(x, whole, want, SIZES), mesh=MESH, in_specs=PartitionSpec(), out_specs=want.spec, check_vma=False
    )
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), 4 * x)
    laid = [e for _, e in jaxpr.walk(jax.make_jaxpr(moved)(x)) if jaxpr.primitive_name(e) == "layout_constraint"]
    found = [e.params["layout"].major_to_minor for e in laid]
    assert [order for order in found if len(order) > 3] == orders


PAIR = 2 * 8 * 128


@pytest.mark.parametrize(
    ("part", "itemsize", "sent"),
    [
        (PAIR, 2, PAIR),
        (PAIR // 2, 2, PAIR),
        (5 * PAIR // 2, 2, 3 * PAIR),
        (5 * PAIR // 2, 4, 3 * PAIR),
        (PAIR + 128, 4, 2 * PAIR),
        (PAIR // 2 - 1, 2, PAIR),
        (128, 4, PAIR),
        (127, 4, 127),
        (513 * PAIR / 2, 4, 513 * PAIR / 2),
    ],
    ids=[
        "a pair",
        "one tile",
        "five",
        "five of words",
        "a row more",
        "less than a tile",
        "a row",
        "less than a row",
        "no small sum",
    ],
)
def test_small_shards_are_filled_up_to_pairs_of_tiles(part, itemsize, sent):
    assert filled(4 * part, 4, itemsize) == 4 * sent


@pytest.mark.parametrize(
    ("shape", "dim", "rows"),
    [
        ((16, 1280), 0, 32),
        ((16, 1280), 1, 32),
        ((3, 4, 1024), 1, 32),
        ((4, 8192), 1, 32),
        ((1, 8192), 1, 32),
        ((64, 32), 1, 32),
        ((512,), 0, 32),
    ],
    ids=["rows", "columns", "in the middle", "few rows", "one row", "narrow columns", "numbers"],
)
def test_shards_that_are_filled_up_arrive_as_they_were(shape, dim, rows):
    whole = Shard(((),) * len(shape), frozenset("xy"))
    want = Shard(tuple(("x", "y") if d == dim else () for d in range(len(shape))))
    moved = jax.shard_map(
        lambda x: move(x, whole, want, SIZES), mesh=MESH, in_specs=PartitionSpec(), out_specs=want.spec, check_vma=False
    )
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), 4 * x)
    found: dict[str, Any] = {jaxpr.primitive_name(e): e.invars[0].aval for _, e in jaxpr.walk(jax.make_jaxpr(moved)(x))}
    scattered = found["reduce_scatter"]
    assert (scattered.shape[0], scattered.size) == (rows, filled(x.size, 4, 4))


@pytest.mark.parametrize(
    ("shape", "turned"), [((64, 32), True), ((64, 96), True), ((16, 1280), False), ((16, 128), False)]
)
def test_narrow_columns_are_filled_up_as_rows(shape, turned):
    def scatter(x):
        return reduce_scatter(x, ("x", "y"), 1, 4)

    out = PartitionSpec(None, ("x", "y"))
    moved = jax.shard_map(scatter, mesh=MESH, in_specs=PartitionSpec(), out_specs=out, check_vma=False)
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), 4 * x)
    found = [params["permutation"] for name, params in primitives(moved, x) if name == "transpose"]
    assert ((1, 0) in found) == turned


BEHIND = [((4, 64, 128), 4, True), ((1, 64, 128), 4, False), ((4, 16, 128), 4, False)]


@pytest.mark.parametrize(("shape", "size", "natively"), [*BEHIND, ((4, 32, 128), 2, False), ((4, 64, 128), 2, True)])
def test_rows_behind_other_dims_are_scattered_as_they_lie_where_each_shard_has_whole_tiles(shape, size, natively):
    whole, rows = Shard(((), (), ()), frozenset("xy")), Shard(((), ("x", "y"), ()))
    moved = jax.shard_map(
        lambda x: move(x, whole, rows, SIZES), mesh=MESH, in_specs=PartitionSpec(), out_specs=rows.spec, check_vma=False
    )
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32 if size == 4 else np.float16)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), 4 * x)
    scattered = [params["scatter_dimension"] for name, params in primitives(moved, x) if name == "reduce_scatter"]
    assert (scattered == [1]) == natively


@pytest.mark.parametrize(
    ("shape", "tiled"), [((64, 768), False), ((64, 1024), False), ((64, 128), True), ((512, 768), True)]
)
def test_a_matrix_goes_in_parts_unless_its_narrow_shards_fill_tiles_column_by_column(shape, tiled):
    """Where neither rows nor columns do, a TPU compiler makes a tiled scatter an all_reduce."""
    whole, columns = Shard(((), ()), frozenset("xy")), Shard(((), ("x", "y")))
    moved = jax.shard_map(
        lambda x: move(x, whole, columns, SIZES), mesh=MESH, in_specs=PartitionSpec(), out_specs=columns.spec
    )
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), 4 * x)
    assert [params["tiled"] for name, params in primitives(moved, x) if name == "reduce_scatter"] == [tiled]


@pytest.mark.parametrize(("rows", "told"), [(LARGE // 4096, False), (LARGE // 4096 - 8, True)], ids=["large", "not so"])
def test_a_large_matrix_goes_as_it_lies(rows, told):
    scatter = jax.shard_map(
        lambda x: reduce_scatter(x, ("x", "y"), 1, 4),
        mesh=MESH,
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(None, ("x", "y")),
        check_vma=False,
    )
    found = primitives(scatter, jax.ShapeDtypeStruct((rows, 1024), np.float32))
    assert ("layout_constraint" in [name for name, _ in found]) == told
    assert [params["scatter_dimension"] for name, params in found if name == "reduce_scatter"] == [1]


@pytest.mark.parametrize(
    ("shape", "order", "tiled"),
    [((1024, 32, 64), (2, 1, 0), True), ((64, 1024, 64), (2, 0, 1), True), ((16, 32, 4096), (2, 0, 1, 3), False)],
    ids=["minor", "as they lie", "wide enough"],
)
def test_narrow_shards_of_the_last_dim_lie_behind_it_and_the_others_so_that_they_fill_tiles(shape, order, tiled):
    whole, narrow = Shard(((), (), ()), frozenset("xy")), Shard(((), (), ("x", "y")))
    moved = jax.shard_map(
        lambda x: move(x, whole, narrow, SIZES), mesh=MESH, in_specs=PartitionSpec(), out_specs=narrow.spec
    )
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), 4 * x)
    found = primitives(moved, x)
    assert [params["tiled"] for name, params in found if name == "reduce_scatter"] == [tiled]
    assert [params["layout"].major_to_minor for name, params in found if name == "layout_constraint"] == [order]


@pytest.mark.parametrize(("shape", "reshaped"), [((8, 16, 256), False), ((8, 1, 256), True), ((8, 4096), True)])
def test_a_leading_dim_is_scattered_as_it_lies_where_others_fill_tiles(shape, reshaped):
    """In 3 dims the leading one is in no tile: rows of it can go as they are, anything else would lay all out anew."""
    have, want = (
        Shard((axes, *[()] * (len(shape) - 1)), opened)
        for axes, opened in (((), frozenset("x")), (("x",), frozenset()))
    )
    moved = jax.shard_map(
        lambda x: move(x, have, want, SIZES), mesh=MESH, in_specs=have.spec, out_specs=want.spec, check_vma=False
    )
    x = np.random.default_rng(0).integers(-4, 5, shape).astype(np.float32)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), 2 * x)
    names = {jaxpr.primitive_name(eqn) for _, eqn in jaxpr.walk(jax.make_jaxpr(moved)(x))}
    assert "reduce_scatter" in names
    assert ("reshape" in names) == reshaped
