"""Moves between layouts: any layout to any other gives the same array."""

import itertools
from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec
from programs import mesh

from passes import jaxpr
from passes.moves import exchange, move
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


@pytest.mark.parametrize(("source", "goal"), [(1, 2), (2, 1), (0, 2)])
def test_what_is_exchanged_lies_in_parts_one_behind_the_other(source, goal):
    """Between dims that stay where they are, a TPU compiler lays all out anew several times."""
    have, want = (Shard(tuple(("x", "y") if d == dim else () for d in range(3))) for dim in (source, goal))
    moved = jax.shard_map(
        lambda x: move(x, have, want, SIZES), mesh=MESH, in_specs=have.spec, out_specs=want.spec, check_vma=False
    )
    x = np.arange(4 * 32 * 64, dtype=np.float32).reshape(4, 32, 64)
    np.testing.assert_array_equal(np.asarray(jax.jit(moved)(x)), x)
    found = jaxpr.walk(jax.make_jaxpr(moved)(x))
    exchanges = [eqn.params for _, eqn in found if jaxpr.primitive_name(eqn) == "all_to_all"]
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
