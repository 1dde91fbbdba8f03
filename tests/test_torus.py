"""Which torus axes a mesh axis walks, and that what a torus carries does not depend on how a mesh cuts it."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
from devices import device, mesh, torus
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from planner.cost import fabric as laws
from planner.cost.collectives import all_gather, groups
from planner.cost.hardware import PRESETS
from planner.cost.torus import Walk, assumed_walks, places_of, walks_of


def one_slice(name):
    """A preset whose slices have no end."""
    return replace(PRESETS[name], fabric=replace(PRESETS[name].fabric, node=1 << 30))


V4, V5E = one_slice("tpu-v4"), one_slice("tpu-v5e")
OPEN = replace(V4, fabric=replace(V4.fabric, wraps=0))
CLOSE = 1e-4


def walks(devices):
    places = places_of(mesh(devices))
    assert places is not None
    return walks_of(places, devices.shape)


def bandwidths(machine, devices):
    return [link.bandwidth / machine.fabric.link for link in machine.links(mesh(devices))]


def together(machine, devices):
    """Links' worth of all axes of a mesh as one group."""
    links = machine.links(mesh(devices))
    return laws.bandwidth([wire for link in links for wire in link.wires()]) / machine.fabric.link


def test_an_axis_walks_a_line_a_plane_or_part_of_a_line():
    cube = torus(4, 4, 4)
    assert walks(cube) == [(Walk(d, 4, 4, 4),) for d in range(3)]
    assert walks(cube.reshape(16, 4)) == [(Walk(0, 4, 4, 4), Walk(1, 4, 4, 4)), (Walk(2, 4, 4, 4),)]
    assert walks(torus(8).reshape(2, 4)) == [(Walk(0, 2, 8, 8),), (Walk(0, 4, 4, 8),)]


def test_a_plane_and_a_half_line():
    """What jax.make_mesh((8, 8)) does on a 4×4×4 slice: each axis takes a whole torus axis and a half of the third."""
    x, y = walks(torus(4, 4, 4).reshape(8, 8))
    assert x == (Walk(0, 4, 4, 4), Walk(1, 2, 4, 4)) and y == (Walk(1, 2, 2, 4), Walk(2, 4, 4, 4))
    assert bandwidths(V4, torus(4, 4, 4).reshape(8, 8)) == [2 + 1, 2 + 1]


def test_part_of_a_ring_has_one_way_and_neighbours_that_jump_share_wires():
    near, far = V4.links(mesh(torus(8).reshape(2, 4)))[::-1]
    assert (near.bandwidth, near.diameter) == (45e9, 3)
    assert (far.bandwidth, far.diameter) == (2 * 45e9 / 4, 4)


def test_two_chips_have_one_wire():
    (pair,) = V4.links(mesh(torus(2)))
    assert (pair.bandwidth, pair.diameter) == (45e9, 1)


def test_v4_axes_close_in_full_cubes_only():
    assert bandwidths(V4, torus(4, 4, 4)) == [2, 2, 2]
    assert bandwidths(V4, torus(4, 4, 1)[..., 0]) == [1, 1] and together(V4, torus(4, 4, 1)) == 2
    assert bandwidths(V4, torus(8, 4, 2)) == [1, 1, 1]


def test_v5e_axes_close_when_there_are_16():
    assert bandwidths(V5E, torus(16, 16, 1)[..., 0]) == [2, 2]
    assert bandwidths(V5E, torus(8, 16, 1)[..., 0]) == [1, 2]
    assert bandwidths(V5E, torus(4, 8, 1)[..., 0]) == [1, 1]


def test_a_chip_of_two_devices_is_one_more_axis():
    """Without megacore JAX calls each core a device, and both have the same coordinates."""
    pairs = np.array([device((x, 0, 0), core_on_chip=c) for x in range(4) for c in range(2)])
    assert walks(pairs.reshape(4, 2)) == [(Walk(0, 4, 4, 4),), (Walk(3, 2, 2, 2),)]
    megacore = np.array([device((x, 0, 0), core_on_chip=0) for x in range(4)])
    assert walks(megacore) == [(Walk(0, 4, 4, 4),)]


def test_the_order_of_devices_does_not_matter_but_their_places_do():
    """XLA finds its own way through a group, so only what the group spans counts."""
    line = torus(8)
    assert walks(line[[0, 2, 1, 3, 7, 6, 4, 5]]) == walks(line)


def test_uneven_jumps_are_priced_as_if_they_used_the_whole_line():
    uneven = torus(8)[[0, 1, 2, 7, 3, 4, 5, 6]].reshape(2, 4)
    (walk,) = walks(uneven)[1]
    assert walk == Walk(0, 4, 8, 8)


def test_a_diagonal_is_no_block_and_priced_as_if_each_group_used_every_wire():
    shifted = np.array([[torus(4, 4)[j, (i + j) % 4] for j in range(4)] for i in range(4)])
    _, diagonal = V4.links(mesh(shifted))
    (straight, _) = V4.links(mesh(torus(4, 4)))
    assert walks(shifted)[1] == (Walk(-2, 4, 16, 0),)
    assert diagonal.bandwidth == 45e9 / 4 < straight.bandwidth
    assert diagonal.diameter > straight.diameter


@st.composite
def cuts(draw):
    """A torus, and its devices as a mesh: each torus axis cut into factors, the factors ordered and grouped."""
    factors = draw(st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=5))
    lines = [draw(st.integers(0, 2)) for _ in factors]
    sizes = [prod(f for f, line in zip(factors, lines) if line == d) for d in range(3)]
    order = sorted(range(len(factors)), key=lambda i: lines[i])
    devices = torus(*sizes).reshape([factors[i] for i in order])
    return sizes, devices.transpose(draw(st.permutations(range(len(factors)))))


def contention(devices, axes):
    """For each torus axis how many groups cross its busiest wire, counted one by one."""
    places = np.array([d.coords for d in devices.flat]).reshape(*devices.shape, 3)
    kept = [i for i in range(devices.ndim) if i not in axes]
    members = places.transpose(*kept, *axes, devices.ndim).reshape(-1, prod(devices.shape[a] for a in axes), 3)
    for d in range(3):
        wires = {}
        for number, group in enumerate(members):
            rows = {tuple(np.delete(place, d)) for place in group}
            crossed = range(int(group[:, d].min()), int(group[:, d].max()))
            for wire in ((row, at) for row in rows for at in crossed):
                wires.setdefault(wire, set()).add(number)
        yield max(map(len, wires.values()), default=0)


@given(cuts(), st.data())
def test_bandwidth_is_what_is_left_of_the_busiest_wire_of_each_torus_axis(cut, data):
    _, devices = cut
    axes = data.draw(st.lists(st.integers(0, devices.ndim - 1), min_size=1, unique=True))
    links = OPEN.links(mesh(devices))
    found = laws.bandwidth([wire for axis in axes for wire in links[axis].wires()])
    assert found == pytest.approx(45e9 * sum(1 / n for n in contention(devices, axes) if n))


@given(cuts())
def test_a_torus_carries_the_same_however_it_is_cut(cut):
    sizes, devices = cut
    for machine in (OPEN, replace(V4, fabric=replace(V4.fabric, cubes=False)), V5E):
        ways = [2 if machine.fabric.wraps and n % machine.fabric.wraps == 0 else 1 for n in sizes]
        assert together(machine, devices) == pytest.approx(sum(w for n, w in zip(sizes, ways) if n > 1))
        exchange = laws.exchange([wire for link in machine.links(mesh(devices)) for wire in link.wires()])
        expected = max(n / 4 / w for n, w in zip(sizes, ways) if n > 1) / machine.fabric.link
        assert exchange == pytest.approx(expected)


def test_meshes_without_coordinates_have_a_torus_axis_for_each_axis_or_share():
    assert assumed_walks((4, 1, 8), 3) == [(Walk(0, 4, 4, 4),), (), (Walk(1, 8, 8, 8),)]
    assert assumed_walks((2, 4, 4, 4), 3) == [
        (Walk(0, 2, 8, 8),),
        (Walk(0, 4, 4, 8),),
        (Walk(1, 4, 4, 4),),
        (Walk(2, 4, 4, 4),),
    ]
    assert assumed_walks((4, 4, 16), 2)[:2] == [(Walk(0, 4, 16, 16),), (Walk(0, 4, 4, 16),)]


@given(st.lists(st.sampled_from([1, 2, 3, 4, 5, 8]), min_size=1, max_size=5), st.sampled_from([V4, V5E]))
def test_no_set_of_axes_has_more_than_all_links_of_a_chip(sizes, machine):
    whole = AbstractMesh(tuple(sizes), tuple("vwxyz"[: len(sizes)]))
    table = groups(machine.links(whole))
    assert (table.bandwidth[table.size > 1] <= (1 + CLOSE) * machine.fabric.link * 2 * machine.fabric.torus).all()
    assert (table.bandwidth[table.size == 1] == np.inf).all() and (table.latency[table.size == 1] == 0).all()


def test_axes_of_one_device_change_nothing():
    with_ones, without = (
        groups(V4.links(AbstractMesh(s, n))) for s, n in (((1, 4, 1, 8), tuple("wxyz")), ((4, 8), ("x", "z")))
    )
    assert all_gather(1e6, with_ones[0b1111]) == pytest.approx(all_gather(1e6, without[0b11]), rel=CLOSE)


def test_scaling_book_a_tiny_gather_takes_two_hops():
    """Chapter "sharding", question 3: 256 bytes over a ring of 4 take about 2 µs."""
    cube = groups(V4.links(AbstractMesh((4, 4, 4), ("x", "y", "z"))))
    assert all_gather(256, cube[1]) == pytest.approx(2e-6, rel=0.01)
