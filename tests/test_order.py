import numpy as np
import pytest
from graphs import PLAIN, abstract_mesh, array, model, program, shape_of
from jax.sharding import PartitionSpec as P

from planner.build import Pins, build_graph
from planner.formulate import formulate
from planner.order import order_axes, order_counts, placings

PLANE = abstract_mesh(2, 4)


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
    """x is gathered out of (x, y): the shards have to change places first, 16·8/8 floats each."""
    formulation, ordered = settle(lambda a: a, (P(("x", "y")),), (P("y"),), [[0, 0], [-1, 0]], (16, 8))
    (permute,) = ordered.permutes[0]
    assert formulation.mesh.axes(permute.mask) == ("x", "y")
    assert permute.nbytes == 16 * 8 * 4 / 8
    assert (
        ordered.seconds
        == permute.seconds
        == float(model(PLANE).collective("permute", *map(np.asarray, (permute.nbytes, 3))))
        > 0
    )


def test_two_readers_that_want_different_axes_leave_one_permute():
    jobs = [[0, 0], [0, -1], [-1, 0]]
    _, ordered = settle(lambda a: (a, a), (None,), (P("x"), P("y")), jobs, (16, 8))
    (permutes,) = ordered.permutes.values()
    assert [p.nbytes for p in permutes] == [16 * 8 * 4 / 8]


def test_one_axis_per_dim_needs_no_order():
    _, ordered = settle(lambda a: a, (None,), (None,), [[0, 1], [0, 1]], (16, 8))
    assert ordered.orders == ({0: ("x",), 1: ("y",)}, {0: ("x",), 1: ("y",)})
    assert not ordered.permutes


def test_axes_that_change_places_meet_on_the_way():
    """x comes to the columns while y is there, which then stands before it and has to leave."""
    _, ordered = settle(lambda a: a, (None,), (None,), [[0, 1], [1, 0]], (16, 8))
    (((permute,),)) = ordered.permutes.values()
    assert permute.nbytes == 16 * 8 * 4 / 8


@pytest.mark.parametrize("order", [("x", "y"), ("y", "x")])
def test_a_scatter_leaves_room_for_what_is_exchanged(order):
    """The sum over y is scattered, x goes from the columns to the rows: there they may stand in any order."""
    pins, jobs = ((P(None, "y"), P("y", "x")), (P(order),)), [[-1, 1], [1, 0], [2, 1], [0, 0]]
    _, ordered = settle(lambda a, b: a @ b, *pins, jobs, (16, 8), (8, 4))
    assert not ordered.permutes


def test_orders_are_counted_as_they_are_made():
    traced = program(lambda a, b: a @ b, array(16, 8), array(8, 4))
    graph = build_graph(traced.closed, traced.names, {}, Pins((P(("y", "x")), None), (None,)))
    formulation = formulate(graph, shape_of(PLANE), model(PLANE), PLAIN.chip, 1e12)
    counts = order_counts(formulation)
    made = [[len(placings(formulation, [*[()] * n, (x,)])[n]) for x in range(len(c))] for n, c in enumerate(counts)]
    assert made == [count.tolist() for count in counts] and {1, 2} <= {many for some in made for many in some}
