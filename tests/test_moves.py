"""Moves between layouts: any layout to any other gives the same array."""

import itertools
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from programs import mesh

from passes import jaxpr
from passes.moves import exchange, move
from passes.scatter import filled
from passes.way import Shard, Step, steps

MESH = mesh(2, 2, 2)
SIZES = dict(MESH.shape)
X = np.arange(8 * 16, dtype=np.float32).reshape(8, 16)


@st.composite
def layouts(draw, opened: bool = False):
    """Each axis splits one of two dims or none, in any order, or is open."""
    places = [draw(st.sampled_from([0, 1, None, "open"] if opened else [0, 1, None])) for _ in SIZES]
    order = draw(st.permutations(list(SIZES)))
    place = dict(zip(SIZES, places))
    dims = tuple(tuple(axis for axis in order if place[axis] == d) for d in range(2))
    return Shard(dims, frozenset(axis for axis in SIZES if place[axis] == "open"))


@settings(max_examples=120)
@given(layouts(opened=True), layouts())
def test_any_layout_to_any_other(have, want):
    def local(x):
        first = np.prod([SIZES[a] for a in have.open], dtype=np.float32)
        return move(x / first, have, want, SIZES)

    moved = jax.shard_map(local, mesh=MESH, in_specs=have.spec, out_specs=want.spec, check_vma=False)
    np.testing.assert_allclose(np.asarray(jax.jit(moved)(X)), X)


@settings(max_examples=60)
@given(layouts(opened=True), layouts())
def test_where_dims_are_too_small_for_all_axes_on_the_way_the_value_is_gathered(have, want):
    """A dim of 4 can be split by two axes of 2, and an exchange may want a third there meanwhile."""
    small = X[:4, :4]
    assume(all(len(axes) <= 2 for shard in (have, want) for axes in shard.dims))

    def local(x):
        return move(x / np.prod([SIZES[a] for a in have.open], dtype=np.float32), have, want, SIZES)

    moved = jax.shard_map(local, mesh=MESH, in_specs=have.spec, out_specs=want.spec, check_vma=False)
    np.testing.assert_allclose(np.asarray(jax.jit(moved)(small)), small)


def test_a_dim_of_one_element_a_device_is_exchanged_before_the_rest_of_it_is_gathered():
    have, want = Shard((("x", "y", "z"), ())), Shard(((), ("x", "y")))
    moved = jax.shard_map(
        lambda x: move(x, have, want, SIZES), mesh=MESH, in_specs=have.spec, out_specs=want.spec, check_vma=False
    )
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(X)), X)
    assert "all_to_all" in str(jax.make_jaxpr(moved)(X))


@given(layouts(opened=True), layouts())
def test_each_axis_moves_at_most_once_beside_permutes(have, want):
    moved = [axis for step in steps(have, want) if step.kind != "permute" for axis in step.axes]
    assert len(moved) == len(set(moved))


@given(layouts())
def test_the_same_layout_needs_nothing(have):
    assert steps(have, have) == []


def test_slices_shrink_what_is_gathered():
    found = steps(Shard((("x",), ())), Shard(((), ("y",))))
    assert found == [Step("slice", ("y",), 1), Step("all_gather", ("x",), 0)]


def test_only_the_minor_axis_leaves_freely():
    assert [s.kind for s in steps(Shard((("x", "y"),)), Shard((("x",),)))] == ["all_gather"]
    assert [s.kind for s in steps(Shard((("x", "y"),)), Shard((("y",),)))] == ["permute", "all_gather"]


@pytest.mark.parametrize(
    ("torus", "parts"),
    [
        ({}, ["xy"]),
        ({"x": ((0, 4),), "y": ((1, 4),)}, ["x", "y"]),
        ({"x": ((0, 4),), "y": ((1, 8),)}, ["xy"]),
        ({"x": ((0, 4),), "y": ((1, 4),), "z": ((2, 4),)}, ["xy"]),
        ({"x": ((0, 4), (1, 4)), "y": ((2, 4),)}, ["x", "y"]),
        ({"x": ((0, 4), (1, 4)), "y": ((2, 8),)}, ["x", "y"]),
        ({"x": ((0, 2),), "y": ((1, 2), (0, 2))}, ["xy"]),
        ({"x": ((0, 2),), "y": ((0, 2),)}, ["xy"]),
    ],
    ids=["no torus", "square", "plane", "plane of a cube", "cube", "three axes", "a row in two", "one row"],
)
def test_a_scatter_never_goes_over_a_whole_square_or_cube(torus, parts):
    found = steps(Shard(((),), frozenset("xy")), Shard((("x", "y"),)), torus)
    assert [(step.kind, "".join(step.axes)) for step in found] == [("reduce_scatter", part) for part in parts]


@pytest.mark.parametrize("order", list(itertools.permutations("xyz")))
def test_axes_of_a_dim_come_and_go_in_any_order(order):
    """Scattered, sliced and exchanged into one dim; then exchanged and gathered out of it."""
    rows, columns = Shard((order, ())), Shard(((), ("x",)))
    come = steps(replace(columns, open=frozenset("y")), rows)
    assert [step.kind for step in come] == ["slice", "reduce_scatter", "all_to_all"]
    go = steps(rows, columns)
    assert sorted({step.kind for step in go}) == ["all_gather", "all_to_all"]
    assert any("x" in step.behind for step in go) == any("x" in step.behind for step in come) == (order[-1] != "x")


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
        (PAIR // 2 - 1, 2, PAIR // 2 - 1),
        (513 * PAIR / 2, 4, 513 * PAIR / 2),
    ],
    ids=["a pair", "one tile", "five", "five of words", "a row more", "less than a tile", "no small sum"],
)
def test_small_shards_are_filled_up_to_pairs_of_tiles(part, itemsize, sent):
    assert filled(4 * part, 4, itemsize) == 4 * sent


@pytest.mark.parametrize(
    ("shape", "dim", "rows"),
    [((16, 1280), 0, 32), ((16, 1280), 1, 32), ((3, 4, 1024), 1, 32), ((4, 8192), 1, 32), ((1, 8192), 1, 32)],
    ids=["rows", "columns", "in the middle", "few rows", "one row"],
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


def primitives(fun, x):
    """Names in order, with params, of what is inside of a `shard_map`."""
    return [(jaxpr.primitive_name(eqn), eqn.params) for _, eqn in jaxpr.walk(jax.make_jaxpr(fun)(x))]


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


@pytest.mark.parametrize(("source", "goal"), [(1, 2), (2, 1), (0, 2)])
def test_what_is_exchanged_lies_in_parts_one_behind_the_other(source, goal):
    """Between dims that stay where they are, a TPU compiler lays all out anew several times."""
    have, want = (Shard(tuple(("x", "y") if d == dim else () for d in range(3))) for dim in (source, goal))
    moved = jax.shard_map(
        lambda x: move(x, have, want, SIZES), mesh=MESH, in_specs=have.spec, out_specs=want.spec, check_vma=False
    )
    x = np.arange(4 * 32 * 64, dtype=np.float32).reshape(4, 32, 64)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), x)
    exchanges = [params for name, params in primitives(moved, x) if name == "all_to_all"]
    assert [(params["split_axis"], params["concat_axis"]) for params in exchanges] == [(0, 0)]


@pytest.mark.parametrize("how", ["max", "min", "mul", "or", "and"])
def test_what_is_no_sum_is_combined_too(how):
    have, want = Shard(((),), frozenset("x"), how), Shard((("x",),))
    x = np.array([True, False, True, True]) if how in ("or", "and") else np.arange(1.0, 5.0, dtype=np.float32)
    combine = {"max": np.max, "min": np.min, "mul": np.prod, "or": np.any, "and": np.all}[how]
    moved = jax.shard_map(
        lambda x: move(x[0], have, want, SIZES),
        mesh=MESH,
        in_specs=PartitionSpec("x"),
        out_specs=want.spec,
        check_vma=False,
    )
    rows = np.stack([x, x[::-1]])
    np.testing.assert_array_equal(np.asarray(moved(rows)), combine(rows, 0))


def test_a_sum_cannot_be_made():
    with pytest.raises(ValueError, match="cannot become parts"):
        steps(Shard(((),)), Shard(((),), frozenset("x")))


def test_exchange_is_a_permutation():
    for order in itertools.permutations(SIZES):
        senders, receivers = zip(*exchange(tuple(SIZES), tuple(SIZES), order, SIZES))
        assert sorted(senders) == sorted(receivers) == list(range(8))


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
