"""Slices, nodes and what lies between: which part of a mesh axis stays within a domain, and what two levels cost."""

from dataclasses import replace

import numpy as np
import pytest
from devices import device, mesh, slices, torus
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from planner.cost import fabric as laws
from planner.cost.collectives import COLLECTIVES, all_gather, all_reduce, all_to_all, groups, permute
from planner.cost.fabric import Fabric, Link
from planner.cost.hardware import PRESETS
from planner.cost.links import domains_of
from planner.errors import MeshError

V4, H100 = PRESETS["tpu-v4"], PRESETS["h100"]
INNER, NIC = 450e9, 50e9
CLOSE = 1e-4
nbytes = st.floats(1e3, 1e12)


def abstract(*sizes):
    return AbstractMesh(sizes, tuple("abcd"[: len(sizes)]))


def prompt(machine):
    """Without hops, so that bytes alone count."""
    return replace(machine, fabric=replace(machine.fabric, hop=0.0, outer_hop=0.0))


def table(machine, over):
    return groups(prompt(machine).links(over))


def two_levels(n, g, m, w=INNER, nic=NIC):
    """jax-ml/scaling-book, "gpus": V·max[(D-1)/(D·W)], where g devices of a node together send g·nic."""
    return n * max((g - 1) / (g * w), (m - 1) / (m * g * nic))


def test_a_node_is_left_in_row_major_order():
    assert domains_of(abstract(2, 8), H100.fabric).tolist() == [[0] * 8, [1] * 8]
    assert domains_of(abstract(16), H100.fabric).tolist() == [0] * 8 + [1] * 8
    assert domains_of(abstract(2, 2, 4), H100.fabric)[1].tolist() == [[1] * 4] * 2


def test_devices_know_their_slice_better():
    over = mesh(slices(2, 4, 4).transpose(1, 0, 2))
    assert domains_of(over, V4.fabric).tolist() == [[[0] * 4, [1] * 4]] * 4


def test_axes_that_a_user_sends_across_come_first_whatever_their_place():
    assert domains_of(abstract(4, 2), V4.fabric, ["b"]).tolist() == [[0, 4]] * 4
    found = domains_of(abstract(4, 2, 8), H100.fabric, ["b"])
    assert [len(np.unique(found[:, b])) for b in (0, 1)] == [4, 4] and len(np.unique(found)) == 8


def test_an_unknown_axis_is_refused():
    with pytest.raises(MeshError, match=r"'data'.*the mesh has a, b"):
        V4.across("data").links(abstract(4, 2))


def test_a_fabric_that_ends_is_refused():
    small = replace(V4, fabric=Fabric(1e9, torus=1, node=4))
    assert small.links(abstract(4))[0].bandwidth == 1e9
    for machine, over in ((small, abstract(8)), (PRESETS["cpu"].across("a"), abstract(2, 4))):
        with pytest.raises(MeshError, match=r"larger than a domain.*Fabric\.outer"):
            machine.links(over)


@given(nbytes, st.sampled_from([2, 4, 8, 16, 32, 64, 128]))
def test_one_axis_over_nodes_takes_as_long_as_its_slower_level(n, size):
    g, m = min(size, 8), max(size // 8, 1)
    assert all_gather(n, table(H100, abstract(size))[1]) == pytest.approx(two_levels(n, g, m))


@given(nbytes, st.permutations([2, 4, 4]), st.integers(1, 7))
def test_several_axes_are_one_that_is_cut(n, sizes, mask):
    """The nodes that a group of 32 is spread over, counted one by one."""
    places = np.arange(32).reshape(sizes)
    index = tuple(slice(None) if mask >> i & 1 else 0 for i in range(3))
    nodes = np.unique(places[index] // 8, return_counts=True)[1]
    expected = two_levels(n, nodes[0], len(nodes))
    assert all_gather(n, table(H100, abstract(*sizes))[mask]) == pytest.approx(expected, rel=CLOSE)


def test_scaling_book_gathering_over_nodes_is_bound_by_a_nodes_egress():
    """Chapter "gpus": V / 400 GB/s over many nodes; with Y of 16 devices on another axis, 8/16 of that per group."""
    many = table(H100, abstract(128, 8))
    assert all_gather(1e9, many[3]) == pytest.approx(1e9 / 400e9, rel=0.01)
    wide = table(H100, abstract(64, 16))
    assert all_gather(1e9 / 16, wide[1]) == pytest.approx(1e9 / 400e9 * 8 / 16, rel=0.02)


def test_scaling_book_an_all_to_all_over_nodes():
    """Chapter "gpus": V / (M · egress of a node) for an array of V bytes on M nodes."""
    nodes = 64
    group = table(H100, abstract(nodes, 8))[3]
    assert all_to_all(1e12 / (8 * nodes), group) == pytest.approx(1e12 / (nodes * 400e9), rel=0.02)


def test_a_permute_may_send_everything_out_of_a_node():
    for size, rate in ((8, INNER), (16, NIC)):
        assert permute(1e9, table(H100, abstract(size))[1]) == pytest.approx(1e9 / rate)


def test_hops_between_nodes_have_their_own_latency():
    group = groups(H100.links(abstract(32)))[1]
    assert all_gather(0, group) == pytest.approx(3 * H100.fabric.hop + 2 * H100.fabric.outer_hop)
    (link,) = H100.links(abstract(32))
    assert link.diameter == 5 and link.diameter * link.hop == pytest.approx(float(group.latency))


@given(nbytes)
def test_slices_are_joined_by_the_data_center_network(n):
    """Each chip of a slice brings 6.25 GB/s; alone it has the whole array to fetch, together they share it."""
    for machine, over in ((V4, mesh(slices(2, 4, 4, 4))), (V4.across("a"), abstract(2, 4, 4, 4))):
        found = table(machine, over)
        ring = n * 3 / 4 / 90e9
        assert all_gather(n, found[1]) == pytest.approx(n / 2 / 6.25e9, rel=CLOSE)
        assert all_gather(n, found[2]) == pytest.approx(ring, rel=CLOSE)
        assert all_gather(n, found[0b1111]) == pytest.approx(two_levels(n, 64, 2, 135e9, 6.25e9), rel=CLOSE)
        assert all_reduce(n, found[0b1111]) == pytest.approx(2 * two_levels(n, 64, 2, 270e9, 6.25e9), rel=CLOSE)


def test_an_axis_may_lie_partly_within_a_slice():
    """Two slices of 4×4×4 as one axis of 8 planes: 4 of them in each."""
    (x, *_) = V4.links(mesh(slices(2, 4, 4, 4).reshape(8, 4, 4)))
    inner, outer = x.parts
    assert (x.size, inner.size, outer.size) == (8, 4, 2)
    assert (inner.bandwidth, outer.bandwidth) == (90e9, 6.25e9) and outer.outer
    assert V4.links(mesh(torus(4, 4, 4)))[0] == inner


def test_a_pod_ends_where_the_datasheet_says():
    pod, more = PRESETS["tpu-v5e"].links(abstract(256))[0], PRESETS["tpu-v5e"].links(abstract(2, 16, 16))[0]
    assert not pod.parts and pod.bandwidth == 90e9
    assert more.outer and more.bandwidth == 3.125e9


def test_uneven_nodes_are_as_slow_as_the_smallest_share():
    """12 devices are 8 and 4: the 4 fetch 8/12 of the array over 4 NICs."""
    assert all_gather(1e9, table(H100, abstract(12))[1]) == pytest.approx(1e9 * 8 / 12 / (4 * NIC))


@pytest.mark.parametrize("name", PRESETS)
@given(st.lists(st.sampled_from([1, 2, 3, 5, 6, 7, 16]), min_size=1, max_size=4), nbytes)
def test_any_mesh_has_a_price(name, sizes, n):
    found = groups(PRESETS[name].links(abstract(*sizes)))
    for law in COLLECTIVES.values():
        times = law(n, found)
        assert np.isfinite(times).all() and (times[found.size > 1] > 0).all() and (times[found.size == 1] == 0).all()


@given(nbytes, st.integers(2, 64), st.integers(2, 64))
def test_a_slower_outer_network_never_helps(n, g, m):
    near = Link(g, INNER, 1, 0.0, 1 - 1 / g, switched=True)
    times = [
        n * (1 - 1 / (g * m)) / laws.bandwidth([near, Link(m, rate, 1, 0.0, 1, switched=True, outer=True)])
        for rate in (1e9, 1e10, 1e12)
    ]
    assert times[0] >= times[1] >= times[2] >= n * (1 - 1 / g) / INNER * (1 - 1e-12)


def test_gpus_may_say_their_node_too():
    nodes = [device((), "gpu", "NVIDIA H100 80GB HBM3", slice_index=i // 4) for i in range(8)]
    (link,) = H100.links(mesh(np.array(nodes, dtype=object)))
    assert [part.size for part in link.parts] == [4, 2]
