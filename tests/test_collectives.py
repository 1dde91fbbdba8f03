from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from planner.cost.collectives import (
    COLLECTIVES,
    SKEW,
    all_gather,
    all_reduce,
    all_to_all,
    groups,
    permute,
    phases,
    reduce_scatter,
)
from planner.cost.hardware import PRESETS, Link

W = 45e9


def ring(size, **more):
    return replace(Link(size, 2 * W, size // 2, 0.0, size / 4), **more)


RING = ring(8)
CLOSE = 1e-4
nbytes = st.floats(0, 1e12)
links = st.builds(
    Link,
    size=st.sampled_from([1, 2, 4, 8]),
    bandwidth=st.floats(1e9, 1e12),
    diameter=st.integers(0, 8),
    hop=st.floats(0, 1e-5),
    exchange=st.floats(0, 4),
    switched=st.just(False),
)


def on(*axes):
    """All axes together."""
    return groups(axes)[(1 << len(axes)) - 1]


def machine(name, *sizes, one_ring=True, hop=0.0):
    mesh = AbstractMesh(sizes, ("x", "y", "z")[: len(sizes)])
    fabric = replace(PRESETS[name].fabric, hop=hop, outer_hop=0.0)
    fabric = fabric if one_ring else replace(fabric, one_ring=False)
    return groups(replace(PRESETS[name], fabric=fabric).links(mesh))


@given(nbytes, st.lists(links, min_size=1, max_size=3))
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(n, axes):
    assert all_reduce(n, on(*axes)) == pytest.approx(reduce_scatter(n, on(*axes)) + all_gather(n, on(*axes)), rel=1e-12)


@pytest.mark.parametrize("kind", COLLECTIVES)
@given(a=nbytes, b=nbytes, axes=st.lists(links, min_size=1, max_size=3))
def test_more_bytes_never_take_less_time(kind, a, b, axes):
    less, more = (COLLECTIVES[kind](n, on(*axes)) for n in sorted((a, b)))
    assert 0 <= less <= more


@pytest.mark.parametrize("kind", COLLECTIVES)
@pytest.mark.parametrize("name", ["tpu-v4", "h100"])
@given(n=nbytes)
def test_a_group_of_one_is_free(kind, name, n):
    table = groups(PRESETS[name].links(AbstractMesh((4, 1), ("x", "y"))))
    assert COLLECTIVES[kind](n, table[0]) == COLLECTIVES[kind](n, table[2]) == 0


@given(nbytes, st.sampled_from([2, 4, 8, 16]), st.integers(1, 3))
def test_gathering_goes_by_bytes_size_and_bandwidth(n, size, axes):
    """(K-1)/K of the output over the bandwidth of all axes. Pope et al. 2022, A.1."""
    everyone = size**axes
    expected = n * (everyone - 1) / everyone / (axes * 2 * W)
    assert all_gather(n, on(*[ring(size)] * axes)) == pytest.approx(expected, rel=CLOSE)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_reduce"])
def test_bandwidth_adds_up_over_torus_axes(kind):
    large = ring(1 << 20)
    times = [float(COLLECTIVES[kind](1e9, on(*[large] * n))) for n in (1, 2, 3)]
    assert [times[0] / t for t in times] == pytest.approx([1, 2, 3], rel=CLOSE)


def test_half_of_a_ring_sends_over_one_wire_in_the_worst_permute():
    n, nbytes = 8, 1e9
    assert permute(nbytes, on(RING)) == pytest.approx(n / 2 * nbytes / W)
    line = replace(RING, bandwidth=W, diameter=n - 1)
    assert permute(nbytes, on(line)) == pytest.approx(n / 2 * nbytes / W)


@pytest.mark.parametrize("kind", ["all_gather", "all_to_all"])
def test_wraparound_halves_the_time(kind):
    wrapped, open_ = (machine("tpu-v5e", n) for n in (16, 8))
    wrapped, line = wrapped[1], replace(open_, size=wrapped.size, exchange=open_.exchange * 2)[1]  # the same, cut open
    assert COLLECTIVES[kind](1e9, line) == pytest.approx(2 * COLLECTIVES[kind](1e9, wrapped))


@given(st.floats(1, 1e12), st.sampled_from([4, 8, 16, 64]))
def test_an_all_to_all_is_a_quarter_of_gathering_the_global_array(n, size):
    """jax-ml/scaling-book, "sharding": bytes / (4 · both directions)."""
    group = on(ring(size))
    gathered = all_gather(n * size, group) / (1 - 1 / size)
    assert all_to_all(n, group) == pytest.approx(gathered / 4) == pytest.approx(n * size / (4 * 2 * W))


@given(st.floats(1, 1e12))
def test_an_all_to_all_takes_as_long_as_its_slowest_axis(n):
    x, y = ring(4), RING
    assert all_to_all(n, on(x, y)) == pytest.approx(all_to_all(n, on(y)), rel=CLOSE)


def test_latency_is_the_farthest_hop_and_twice_that_for_an_all_reduce():
    group = on(ring(8, hop=1e-6), ring(6, hop=1e-6))
    assert all_gather(0, group) == reduce_scatter(0, group) == all_to_all(0, group) == permute(0, group)
    assert all_gather(0, group) == pytest.approx(7e-6, rel=CLOSE)
    assert all_reduce(0, group) == 2 * all_gather(0, group)


def test_scaling_book_v5e_gathers_34_mb_over_four_chips_without_wraparound():
    """Chapter "sharding", worked example: bf16[2048, 8192] over 4 chips of a row take 560 µs, (K-1)/K counted."""
    n = 2 * 2048 * 8192
    assert n / W * 3 / 4 == pytest.approx(560e-6, rel=0.002)
    assert all_gather(n, machine("tpu-v5e", 4)[1]) == pytest.approx(560e-6, rel=0.002)


def test_scaling_book_v4_cube():
    """Chapter "sharding", question 3: B=1024, D=4096 in bf16; in the book 23, 46 and 190 µs, without (K-1)/K."""
    cube = machine("tpu-v4", 4, 4, 4, one_ring=False)
    array = 2 * 1024 * 4096
    assert all_gather(array / 4, cube[1]) == pytest.approx(23e-6 * 3 / 4, rel=0.02)
    assert all_gather(array, cube[3]) == pytest.approx(46e-6 * 15 / 16, rel=0.02)
    assert all_reduce(array, cube[4]) == pytest.approx(190e-6 * 3 / 4, rel=0.02)


def test_a_gather_over_two_axes_is_one_ring_and_over_three_half_an_all_reduce():
    """What libtpu emits for v4: one ring of 16 (90 GB/s), and an all_reduce on all six links (270 GB/s)."""
    cube = machine("tpu-v4", 4, 4, 4)
    for gather in (all_gather, reduce_scatter):
        assert gather(1e9, cube[1]) == pytest.approx(1e9 * 3 / 4 / 90e9, rel=CLOSE)
        assert gather(1e9, cube[3]) == pytest.approx(1e9 * 15 / 16 / 90e9, rel=CLOSE)
        assert gather(1e9, cube[7]) == pytest.approx(all_reduce(1e9, cube[7]), rel=CLOSE)
    assert all_reduce(1e9, cube[7]) == pytest.approx(2 * 1e9 * 63 / 64 / 270e9, rel=CLOSE)
    assert all_reduce(1e9, cube[3]) == pytest.approx(2 * 1e9 * 15 / 16 / 180e9, rel=CLOSE)


def test_one_ring_closes_where_its_axes_do_not():
    """4 by 8 chips of v5e are two lines, of 45 GB/s; a ring runs through them all both ways."""
    plane = machine("tpu-v5e", 4, 8)
    assert all_gather(1e9, plane[2]) == pytest.approx(1e9 * 7 / 8 / 45e9, rel=CLOSE)
    assert all_gather(1e9, plane[3]) == pytest.approx(1e9 * 31 / 32 / 90e9, rel=CLOSE)


def test_the_farthest_of_a_ring_is_half_way_round():
    hop = 1e-6
    cube = machine("tpu-v4", 4, 4, 4, hop=hop)
    assert [float(all_gather(0, cube[m])) for m in (1, 3, 7)] == pytest.approx([2 * hop, 8 * hop, 12 * hop], rel=CLOSE)


def test_phases():
    """libtpu writes "phases:3" on an all_reduce over three axes."""
    cube, switch = machine("tpu-v4", 4, 4, 4), machine("h100", 4, 2)
    assert [int(phases("all_reduce", cube[m])) for m in (0, 1, 3, 7)] == [0, 2, 4, 6]
    assert [int(phases("all_gather", cube[m])) for m in (0, 1, 3, 7)] == [0, 1, 1, 6]
    assert [int(phases("all_to_all", cube[m])) for m in (0, 1, 3, 7)] == [0, 1, 1, 1]
    assert [int(phases("all_reduce", switch[m])) for m in (0, 3)] == [0, 2]


def test_a_switch_sends_each_byte_once_and_two_levels_take_as_long_as_the_slower():
    """jax-ml/scaling-book, "gpus": V·max[(D-1)/(D·W)], where a node of 8 sends 8 · 50 GB/s."""
    inner, outer = machine("h100", 4, 8)[2], machine("h100", 4, 8)[1]
    both = machine("h100", 4, 8)[3]
    assert all_gather(1e9, inner) == pytest.approx(1e9 * 7 / 8 / 450e9, rel=CLOSE)
    assert all_to_all(1e9, inner) == pytest.approx(all_gather(1e9, inner), rel=CLOSE)
    assert all_gather(1e9, outer) == pytest.approx(1e9 * 3 / 4 / 50e9, rel=CLOSE)
    slowest = max(7 / 8 / 450e9, 3 / 4 / (8 * 50e9))
    assert all_gather(1e9, both) == pytest.approx(1e9 * slowest, rel=CLOSE)


@pytest.mark.parametrize("kind", ["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "permute"])
@pytest.mark.parametrize("name", ["tpu-v4", "tpu-v5e", "h100"])
def test_equal_axes_differ_by_less_than_a_ten_thousandth_and_later_ones_win(kind, name):
    equal = groups(PRESETS[name].links(AbstractMesh((4,), ("x",))) * 3)
    times = [float(COLLECTIVES[kind](1e6, equal[1 << i])) for i in range(3)]
    assert times[0] > times[1] > times[2] > times[0] * (1 - 1e-4)
    assert 0 < SKEW < 5e-5


def test_arrays_and_numbers_agree():
    table = groups((RING, ring(4)))
    masks, sizes = [0, 1, 2, 3], np.array([1.0, 2e6, 3e6, 4e6])
    for law in COLLECTIVES.values():
        assert law(sizes, table[np.array(masks)]).tolist() == [float(law(n, table[m])) for n, m in zip(sizes, masks)]


@pytest.mark.parametrize(
    ("name", "size", "turns"), [("tpu-v4", 4, 1), ("tpu-v5e", 4, 2), ("tpu-v5e", 16, 1), ("h100", 8, 2)]
)
def test_both_ways_of_a_ring_take_turns_where_they_share_wires(name, size, turns):
    """A row is walked by every other place and back; what closes, each way over its own wires."""
    assert machine(name, size).ring_turns.tolist()[1] == turns


def test_a_ring_to_one_neighbour_alone_has_all_of_a_wire():
    row, closed = machine("tpu-v5e", 4), machine("tpu-v5e", 16)
    assert (row.ring * row.ring_turns)[1] == (closed.ring * closed.ring_turns)[1] == pytest.approx(W)
