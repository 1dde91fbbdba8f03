import jax
import numpy as np
import pytest
from devices import device, mesh, torus
from jax.sharding import AbstractMesh

from planner.cost.collectives import all_to_all, groups
from planner.cost.hardware import PRESETS, machine_named, machine_of, torus_spans
from planner.errors import UnknownMachineError
from planner.rules.rule import PRECISIONS


def links(name, *sizes):
    return PRESETS[name].links(AbstractMesh(sizes, ("x", "y", "z")[: len(sizes)]))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sane(name):
    chip, fabric = PRESETS[name].chip, PRESETS[name].fabric
    assert PRESETS[name].name == chip.name == name
    assert 8e9 < chip.hbm_bytes < 1e12
    assert chip.rate("float32") <= chip.rate("bfloat16") <= chip.rate("int8")
    assert 1 <= chip.passes[0] <= chip.passes[1]
    assert 1e-7 < fabric.hop < 1e-4
    assert chip.hbm_bandwidth >= fabric.link > fabric.outer
    assert 0 < chip.flops_share <= 1 and 0 < chip.hbm_share <= 1


def test_presets_say_what_the_datasheets_say():
    v4, v5e, v5p, h200 = (PRESETS[n] for n in ("tpu-v4", "tpu-v5e", "tpu-v5p", "h200"))
    assert v4.chip.flops["bfloat16"] == 275e12 and v4.chip.hbm_bytes == 32 * 2**30
    assert v5e.chip.flops["int8"] == 2 * v5e.chip.flops["bfloat16"] == 394e12
    assert v5p.fabric.link == 2 * v4.fabric.link == 90e9
    assert round(v4.chip.usable_bytes / 2**30, 2) == 30.75 and h200.chip.reserved == 0
    assert h200.chip.hbm_bytes == 141e9 and h200.fabric.node == 8


def test_dtypes_without_a_rate_run_at_that_of_float32():
    chip = PRESETS["h100"].chip
    assert chip.rate("int32") == chip.rate("float32") < chip.rate("bfloat16")


def test_float32_is_multiplied_in_passes():
    """A TPU's matrix unit takes bfloat16; of a GPU's only the highest precision leaves the tensor cores."""
    v4, a100 = PRESETS["tpu-v4"].chip, PRESETS["a100"].chip
    assert v4.rate("float32") == v4.rate("bfloat16")
    assert [v4.times("float32", p) for p in PRECISIONS] == [1, 3, 6]
    assert [v4.times("bfloat16", p) for p in PRECISIONS] == [1, 1, 1]
    assert [a100.times("float32", p) for p in PRECISIONS] == [1, 1, 156 / 19.5]


def test_an_axis_closes_where_the_chip_says():
    full, half = links("tpu-v4", 4, 2)
    assert (full.bandwidth, full.diameter) == (90e9, 2)
    assert (half.bandwidth, half.diameter) == (45e9, 1)
    (row,) = links("tpu-v5e", 8)
    assert (row.bandwidth, row.diameter) == (45e9, 7)


def test_a_wide_axis_over_a_plane_has_twice_the_links_of_a_ring():
    v4 = PRESETS["tpu-v4"]
    (plane,), (ring,) = v4.links(mesh(torus(4, 4).reshape(16))), links("tpu-v4", 16)
    assert torus_spans(mesh(torus(4, 4).reshape(16))) == ((4, 4),)
    assert plane.size == ring.size == 16
    assert plane.bandwidth == 2 * ring.bandwidth
    assert (plane.diameter, ring.diameter) == (4, 8)


def test_an_all_to_all_in_a_plane_is_that_of_its_two_rings():
    """Half of all bytes cross the middle: 16·D/4 each way over 4 rows of links, as for two mesh axes."""
    v4, devices = PRESETS["tpu-v4"], torus(4, 4)
    one, two = (groups(v4.links(mesh(d))) for d in (devices.reshape(16), devices))
    assert all_to_all(1e9, one[1]) == pytest.approx(all_to_all(1e9, two[3]), rel=1e-4)


def test_coordinates_count_and_mesh_order_does_not():
    devices = torus(4, 2, 8)
    assert torus_spans(mesh(devices.transpose(2, 0, 1))) == ((8,), (4,), (2,))
    assert torus_spans(mesh(devices.reshape(8, 8))) == ((4, 2), (8,))
    assert torus_spans(AbstractMesh((4,), ("x",))) is None


def test_an_axis_of_one_device_walks_nothing():
    assert torus_spans(mesh(torus(4).reshape(1, 4))) == ((1,), (4,))


def test_gpus_are_switched_and_slow_between_nodes():
    outer, inner = links("h100", 4, 8)
    assert inner.switched and (inner.bandwidth, outer.bandwidth) == (450e9, 50e9)
    assert inner.diameter == 3


def test_a_machine_is_named_or_itself():
    v4 = PRESETS["tpu-v4"]
    assert machine_named("tpu-v4") is machine_named(v4) is v4
    with pytest.raises(UnknownMachineError, match=r"'tpu-v9'.*tpu-v4.*planner\.Machine"):
        machine_named("tpu-v9")


@pytest.mark.parametrize(
    ("platform", "kind", "name"),
    [
        ("tpu", "TPU v3", "tpu-v3"),
        ("tpu", "TPU v4", "tpu-v4"),
        ("tpu", "TPU v5 lite", "tpu-v5e"),
        ("tpu", "TPU v5p", "tpu-v5p"),
        ("tpu", "TPU v5", "tpu-v5p"),
        ("tpu", "TPU v6 lite", "tpu-v6e"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "a100"),
        ("gpu", "NVIDIA H100 80GB HBM3", "h100"),
        ("gpu", "NVIDIA H200", "h200"),
        ("gpu", "NVIDIA B200", "b200"),
        ("cpu", "cpu", "cpu"),
    ],
)
def test_devices_say_what_machine_they_are(platform, kind, name):
    assert machine_of(mesh(np.array([device((0,), platform, kind)]))).name == name


def test_machines_of_meshes():
    assert machine_of(jax.make_mesh((8,), ("x",))).name == "cpu"
    with pytest.raises(UnknownMachineError, match="name a machine"):
        machine_of(AbstractMesh((8,), ("x",)))
    with pytest.raises(UnknownMachineError, match="Quantum 1"):
        machine_of(mesh(np.array([device((0,), "gpu", "Quantum 1")])))
