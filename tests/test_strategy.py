from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.rules import rule_for
from planner.sharding import MeshShape
from planner.strategy import NO_RING, REPEAT, enumerate_strategies, open_job

PLANE = MeshShape(("x", "y"), (2, 4))
MATMUL = {"dimension_numbers": (((1,), (0,)), ((), ()))}
M, K, N = 0, 1, 2
X, Y, XY = 1, 2, 3


def rule(name, *shapes, **params):
    """The rule of an equation with operands of these shapes and a result of the last."""
    found = rule_for(name, shapes[:-1], shapes[-1:], params)
    assert found is not None
    return found


def matmul(m=8, k=16, n=32):
    return rule("dot_general", (m, k), (k, n), (m, n), **MATMUL)


ADD = rule("add", (8, 16), (8, 16), (8, 16))
MUL = rule("mul", (8, 16), (8, 16), (8, 16))


@pytest.mark.parametrize("sizes", [(2,), (2, 4), (2, 2, 2), (1, 2)])
def test_where_every_dim_divides_each_axis_has_a_job_more_than_there_are_factors(sizes):
    mesh = MeshShape(("x", "y", "z")[: len(sizes)], sizes)
    factors = 3
    assert len(enumerate_strategies(matmul(64, 64, 64), mesh)) == (factors + 1) ** sum(n > 1 for n in sizes)


@pytest.mark.parametrize(("name", "groups"), [("add", 1), ("mul", 2), ("exp", 0), ("neg", 1)])
def test_open_sums_add_the_ways_through_one_linear_group(name, groups):
    """Any number of closed jobs for the axes outside a set, times one group for all axes inside of it."""
    operands = 1 if name in ("exp", "neg") else 2
    some = rule(name, *[(8, 16)] * operands, (8, 16))
    closed, axes = 3, 2
    expected = closed**axes + groups * ((closed + 1) ** axes - closed**axes)
    assert len(enumerate_strategies(some, PLANE, may_be_open=True)) == expected
    assert len(enumerate_strategies(some, PLANE)) == closed**axes


sizes = st.sampled_from([1, 2, 3, 4, 6, 8, 16])


@given(sizes, sizes, sizes)
def test_strategies_are_exactly_the_assignments_that_divide(m, k, n):
    some = matmul(m, k, n)
    found = {tuple(jobs) for jobs in enumerate_strategies(some, PLANE).jobs.tolist()}
    expected = set()
    for jobs in product([REPEAT, *range(len(some.sizes))], repeat=2):
        parts = [np.prod([PLANE.sizes[a] for a in (0, 1) if jobs[a] == f], initial=1) for f in range(len(some.sizes))]
        if all(size % part == 0 for size, part in zip(some.sizes, parts)):
            expected.add(jobs)
    assert found == expected


@given(sizes, sizes, sizes)
def test_local_sizes_are_whole(m, k, n):
    local = enumerate_strategies(matmul(m, k, n), PLANE).local_sizes
    assert (local == local.round()).all() and (local >= 1).all()


def test_no_strategy_twice():
    jobs = enumerate_strategies(MUL, PLANE, may_be_open=True).jobs
    assert len(np.unique(jobs, axis=0)) == len(jobs)


def test_all_open_axes_go_through_one_group():
    jobs = enumerate_strategies(MUL, PLANE, may_be_open=True).jobs
    mixed = {open_job(0), open_job(1)}
    assert not any(mixed <= set(row) for row in jobs.tolist())
    assert [open_job(1)] * 2 in jobs.tolist()


def test_an_open_sum_passes_an_add_in_both_operands_and_a_mul_in_one():
    for some, opened in ((ADD, [(X, X)]), (MUL, [(X, 0), (0, X)])):
        s = enumerate_strategies(some, PLANE, may_be_open=True)
        rows = s.result(0)[:, -1] == X
        lefts, rights = s.operand(0)[rows, -1], s.operand(1)[rows, -1]
        assert sorted(set(zip(lefts.tolist(), rights.tolist()))) == sorted(opened)


def test_whole_factors_are_never_split():
    sort = rule_for("sort", ((8, 16),), ((8, 16),), {"dimension": 1})
    assert sort is not None
    s = enumerate_strategies(sort, PLANE)
    assert len(s) == 2**2
    assert not s.result(0)[:, 1].any()


@pytest.mark.parametrize(
    ("x", "y", "lhs", "rhs", "out"),
    [
        (REPEAT, REPEAT, (0, 0, 0), (0, 0, 0), (0, 0, 0)),
        (REPEAT, M, (Y, 0, 0), (0, 0, 0), (Y, 0, 0)),
        (REPEAT, K, (0, Y, 0), (Y, 0, 0), (0, 0, Y)),
        (REPEAT, N, (0, 0, 0), (0, Y, 0), (0, Y, 0)),
        (M, REPEAT, (X, 0, 0), (0, 0, 0), (X, 0, 0)),
        (M, M, (XY, 0, 0), (0, 0, 0), (XY, 0, 0)),
        (M, K, (X, Y, 0), (Y, 0, 0), (X, 0, Y)),
        (M, N, (X, 0, 0), (0, Y, 0), (X, Y, 0)),
        (K, REPEAT, (0, X, 0), (X, 0, 0), (0, 0, X)),
        (K, M, (Y, X, 0), (X, 0, 0), (Y, 0, X)),
        (K, K, (0, XY, 0), (XY, 0, 0), (0, 0, XY)),
        (K, N, (0, X, 0), (X, Y, 0), (0, Y, X)),
        (N, REPEAT, (0, 0, 0), (0, X, 0), (0, X, 0)),
        (N, M, (Y, 0, 0), (0, X, 0), (Y, X, 0)),
        (N, K, (0, Y, 0), (Y, X, 0), (0, X, Y)),
        (N, N, (0, 0, 0), (0, XY, 0), (0, XY, 0)),
    ],
)
def test_a_matmul_over_two_axes(x, y, lhs, rhs, out):
    """Layouts as masks of the axes that split each dim, and last of those over which the value is open."""
    s = enumerate_strategies(matmul(), PLANE)
    (row,) = np.flatnonzero((s.jobs == [x, y]).all(1))
    assert tuple(s.operand(0)[row]) == lhs
    assert tuple(s.operand(1)[row]) == rhs
    assert tuple(s.result(0)[row]) == out
    assert s.devices[row] == PLANE.size[(x != REPEAT) * X + (y != REPEAT) * Y]
    assert s.local_sizes[row].tolist() == [
        size / PLANE.size[(x == f) * X + (y == f) * Y] for f, size in enumerate((8, 16, 32))
    ]


def test_keep_by_index_and_by_mask():
    s = enumerate_strategies(matmul(), PLANE)
    assert s.keep(s.devices == 8).jobs.tolist() == s.keep(np.flatnonzero(s.devices == 8)).jobs.tolist()
    assert len(s.keep(np.array([3]))) == 1


def test_a_scalar_is_repeated():
    s = enumerate_strategies(rule("exp", (), ()), PLANE)
    assert s.jobs.tolist() == [[REPEAT, REPEAT]]
    assert s.devices.tolist() == [1]


def ringed(jobs):
    """The rings of one assignment of jobs: (place, factor, mask)."""
    found = enumerate_strategies(matmul(), PLANE, rings=True)
    mine = (found.jobs == jobs).all(1)
    return found.keep(mine & (found.rings[:, 0] != NO_RING))


@pytest.mark.parametrize(
    ("job", "place", "factors"), [(N, 0, {M, K}), (M, 1, {K, N}), (K, 2, {M, N})], ids=["lhs", "rhs", "result"]
)
def test_axes_gather_what_they_do_not_split_and_scatter_what_they_sum(job, place, factors):
    """All sets of the two axes, on each dim of the operand or result."""
    rings = {tuple(ring) for ring in ringed([job, job]).rings.tolist()}
    assert rings == {(place, f, mask) for f in factors for mask in (X, Y, XY)}


def test_a_ring_changes_what_arrives_and_not_the_work():
    found = ringed([N, K])  # x splits columns: lhs may come split over x; y sums: the result may leave split over y
    for i, (place, factor, mask) in enumerate(found.rings.tolist()):
        plain, one = matmul_layouts(found, i, False), matmul_layouts(found, i, True)
        changed = [d for d in range(3) if plain[d] != one[d]]
        assert changed == [place]
        dims = [[M, K], [K, N], [M, N]][place]
        expected = list(plain[place])
        expected[dims.index(factor)] |= mask
        assert list(one[place]) == [*expected[:2], expected[2] & ~mask if place == 2 else 0]


def matmul_layouts(found, i, with_ring):
    rows = found.keep(np.array([i]))
    rows = rows if with_ring else replace(rows, rings=np.full((1, 3), NO_RING))
    return [tuple(layouts[0].tolist()) for layouts in (rows.operand(0), rows.operand(1), rows.result(0))]


def test_chunks_divide():
    """16 contracted elements over x and y are 2 each; 6 rows do not split in 4."""
    found = enumerate_strategies(matmul(6, 16, 32), PLANE, rings=True)
    assert not ((found.rings[:, 1] == M) & (found.rings[:, 2] == Y)).any()
    assert ((found.rings[:, 1] == K) & (found.rings[:, 2] == XY)).any()
