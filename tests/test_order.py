from itertools import permutations

import numpy as np
import pytest
from graphs import PLAIN, abstract_mesh, array, model, program, shape_of
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from planner.build import Pins, build_graph
from planner.formulate import formulate
from planner.order import follows, order_axes

PLANE = abstract_mesh(2, 4)
orders = st.integers(0, 3).flatmap(lambda n: st.permutations("xyz").map(lambda p: "".join(p[:n])))


@pytest.mark.parametrize(
    ("have", "want", "expected"),
    [
        ("", "", True),
        ("", "xy", True),
        ("xy", "", True),
        ("xyz", "x", True),
        ("xyz", "xy", True),
        ("x", "xyz", True),
        ("xy", "xz", True),
        ("x", "y", True),
        ("xyz", "yz", False),
        ("xy", "y", False),
        ("xy", "yx", False),
        ("x", "yx", False),
        ("xy", "zx", False),
    ],
)
def test_follows(have, want, expected):
    assert follows(have, want) is expected


@given(orders, orders)
def test_follows_means_a_common_beginning_of_all_that_stays(have, want):
    reachable = any(want[:kept] == have[:kept] and not set(want[kept:]) & set(have) for kept in range(len(have) + 1))
    assert follows(have, want) is reachable


@given(orders)
def test_some_order_always_follows_from_the_same_axes(have):
    assert sum(follows(have, p) for p in permutations(have)) == 1


def settle(fun, inputs, outputs, jobs, *shapes):
    """The orders for a choice of jobs (one row for each node) of a program with pinned arguments and results."""
    traced = program(fun, *(array(*s) for s in shapes))
    some = build_graph(traced.closed, traced.names, {}, Pins(inputs, outputs))
    costs = model(PLANE)
    formulation = formulate(some, shape_of(PLANE), costs, PLAIN.chip, 1e12)
    choice = []
    for n, wanted in enumerate(jobs):
        (row,) = np.flatnonzero((formulation.strategies[n].jobs == wanted).all(1))
        choice.append(int(row))
    return formulation, order_axes(formulation, choice, costs)


def test_a_free_order_is_the_one_that_gathers_without_a_permute():
    _, ordered = settle(lambda a: a, (None,), (P("y"),), [[0, 0], [-1, 0]], (16, 8))
    assert ordered.orders[0] == {0: ("y", "x")}
    assert not ordered.permutes and ordered.seconds == 0


def test_the_other_way_round():
    _, ordered = settle(lambda a: a, (None,), (P("x"),), [[0, 0], [0, -1]], (16, 8))
    assert ordered.orders[0] == {0: ("x", "y")}


def test_orders_pass_along_a_chain():
    _, ordered = settle(lambda a: a, (P(("y", "x")),), (None,), [[0, 0], [0, 0]], (16, 8))
    assert ordered.orders[1] == {0: ("y", "x")}
    assert not ordered.permutes


def test_the_users_order_can_need_a_permute():
    """x is gathered out of (x, y): the shards of y have to move first, 16·8/4 floats each."""
    formulation, ordered = settle(lambda a: a, (P(("x", "y")),), (P("y"),), [[0, 0], [-1, 0]], (16, 8))
    (permute,) = ordered.permutes[0]
    assert formulation.mesh.axes(permute.mask) == ("x", "y")
    assert permute.nbytes == 16 * 8 * 4 / 4
    assert (
        ordered.seconds
        == permute.seconds
        == float(model(PLANE).collective("permute", *map(np.asarray, (permute.nbytes, 3))))
        > 0
    )


def test_two_readers_that_want_different_axes_leave_one_permute_the_cheaper():
    """Wanted are 1/2 and 1/4 of the array: the order serves the reader of the larger part."""
    jobs = [[0, 0], [0, -1], [-1, 0]]
    _, ordered = settle(lambda a: (a, a), (None,), (P("x"), P("y")), jobs, (16, 8))
    (permutes,) = ordered.permutes.values()
    assert [p.nbytes for p in permutes] == [16 * 8 * 4 / 4]
    assert ordered.orders[0] == {0: ("x", "y")}


def test_one_axis_per_dim_needs_no_order():
    _, ordered = settle(lambda a: a, (None,), (None,), [[0, 1], [1, 0]], (16, 8))
    assert ordered.orders == ({0: ("x",), 1: ("y",)}, {1: ("x",), 0: ("y",)})
    assert not ordered.permutes
