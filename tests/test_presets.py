"""Presets against the tables they come from."""

import pytest

from planner.cost.hardware import PRESETS
from planner.cost.presets import ESTIMATED, FITTED

TPUS = {
    # bf16 TFLOP/s, int8, HBM GB/s, GB/s of a link one way, torus axes, DCN GB/s: scaling-book, "tpus"
    "tpu-v4": (275, 275, 1200, 45, 3, 6.25),
    "tpu-v5e": (197, 394, 810, 45, 2, 3.125),
    "tpu-v5p": (459, 918, 2800, 90, 3, 6.25),
    "tpu-v6e": (920, 1840, 1600, 90, 2, 12.5),
}
GPUS = {
    # bf16 TFLOP/s, int8, HBM GB and GB/s, NVLink GB/s: scaling-book, "gpus"
    "a100": (310, 620, 80, 2000, 300),
    "h100": (990, 2000, 80, 3400, 450),
    "h200": (990, 2000, 141, 4800, 450),
    "b200": (2300, 4500, 192, 8000, 900),
}


@pytest.mark.parametrize("name", TPUS)
def test_tpus_say_what_the_table_says(name):
    chip, fabric = PRESETS[name].chip, PRESETS[name].fabric
    rates = (chip.flops["bfloat16"] / 1e12, chip.flops["int8"] / 1e12, chip.hbm_bandwidth / 1e9)
    found = (*rates, fabric.link / 1e9, fabric.torus, fabric.outer / 1e9)
    assert found == pytest.approx(TPUS[name], rel=0.03)
    assert fabric.wraps == {2: 16, 3: 4}[fabric.torus] and fabric.cubes == (fabric.torus == 3)
    shares = (chip.flops_share, chip.hbm_share)
    assert shares == ESTIMATED.get(name, FITTED[:2]) and chip.overhead == FITTED[2]


@pytest.mark.parametrize("name", GPUS)
def test_gpus_say_what_the_table_says(name):
    chip, fabric = PRESETS[name].chip, PRESETS[name].fabric
    rates = (chip.flops["bfloat16"] / 1e12, chip.flops["int8"] / 1e12)
    found = (*rates, chip.hbm_bytes / 1e9, chip.hbm_bandwidth / 1e9, fabric.link / 1e9)
    assert found == pytest.approx(GPUS[name], rel=0.03)
    assert fabric.node == 8 and fabric.outer * 8 == (200e9 if name == "a100" else 400e9)


def test_a_device_of_v3_is_half_a_chip():
    """cloud.google.com/tpu/docs/v3: 123 TFLOP/s, 32 GiB and 900 GB/s a chip; JAX shows its two cores."""
    chip = PRESETS["tpu-v3"].chip
    assert 2 * chip.flops["bfloat16"] == 123e12
    assert 2 * chip.hbm_bytes == 32 * 2**30 and 2 * chip.hbm_bandwidth == 900e9


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_says_where_its_numbers_come_from(name):
    machine = PRESETS[name]
    assert any(word in machine.source for word in ("cloud.google.com", "scaling-book", "datasheet", "guess"))
    assert machine.outer_axes == ()


def test_only_the_cpu_is_a_guess():
    assert [name for name, machine in PRESETS.items() if "guess" in machine.source] == ["cpu"]
