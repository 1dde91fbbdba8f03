"""Machines as files: what is written is read, and what is wrong is said with its key."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh
from typer.testing import CliRunner

from planner import Chip, Fabric, Machine
from planner.cli import app
from planner.cost.hardware import PRESETS, machine_named
from planner.errors import MachineFileError, UnknownMachineError
from planner.make import make_setting

SMALL = """
name = "mine"

[chip]
name = "mine"
hbm_bytes = 8e9
hbm_bandwidth = 1e11

[chip.flops]
float32 = 1e12

[fabric]
link = 1e9
"""


@pytest.fixture
def written(tmp_path):
    def write(text, name="mine.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_shown_as_a_file_that_makes_the_same_machine(name, written):
    shown = CliRunner().invoke(app, ["machines", "--show", name])
    assert shown.exit_code == 0, shown.output
    assert Machine.load(written(shown.stdout)) == PRESETS[name]
    assert Machine.load(written(json.dumps(asdict(PRESETS[name])), "mine.json")) == PRESETS[name]


positive = st.floats(1e-12, 1e18)


@given(
    st.builds(
        Machine,
        name=st.text(),
        chip=st.builds(
            Chip, st.text(), st.fixed_dictionaries({"float32": positive}), positive, positive, overhead=st.floats(0, 1)
        ),
        fabric=st.builds(Fabric, link=positive, hop=positive, torus=st.integers(0, 3), cubes=st.booleans()),
        source=st.text(),
        outer_axes=st.lists(st.text()).map(tuple),
    )
)
def test_any_machine_is_written_and_read(tmp_path_factory, machine):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(machine.toml(), encoding="utf-8", newline="")
    assert Machine.load(file) == machine


def test_what_is_left_out_has_the_defaults_of_python(written):
    assert Machine.load(written(SMALL)) == Machine("mine", Chip("mine", {"float32": 1e12}, 8e9, 1e11), Fabric(1e9))


def test_a_file_may_be_named_wherever_a_machine_may(written):
    file = written(SMALL.replace('name = "mine"', 'name = "mine"\nouter_axes = ["data"]', 1))
    assert machine_named(str(file)) == Machine.load(file)
    setting = make_setting(AbstractMesh((2,), ("x",)), str(file))
    assert setting.machine.outer_axes == ("data",) and setting.limit == 8e9


def test_axes_across_are_of_a_machine():
    assert PRESETS["tpu-v4"].across("data") == replace(PRESETS["tpu-v4"], outer_axes=("data",))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("hbm_bytes", "hbm_byte", ["chip.hbm_bytes is missing", "chip.hbm_byte is no key"]),
        ("[fabric]", "[fabrics]", ["fabric is missing", "fabrics is no key"]),
        ("hbm_bytes = 8e9", "hbm_bytes = -8e9", ["chip.hbm_bytes is -8000000000.0", "greater than 0"]),
        ("link = 1e9", "link = inf", ["fabric.link is inf", "finite"]),
        ("link = 1e9", 'link = "fast"', ["fabric.link is 'fast'", "number"]),
        ("link = 1e9", "link = 1e9\ntorus = -1", ["fabric.torus is -1"]),
        ("link = 1e9", "link = 1e9\ntorus = 1.5", ["fabric.torus is 1.5", "integer"]),
        ("float32 = 1e12", "float32 = 0", ["chip.flops.float32 is 0", "greater than 0"]),
        ("float32 = 1e12", "bfloat16 = 1e12", ["chip.flops.float32 is missing"]),
        ("float32 = 1e12", "float32 = 1e12\nbf16 = 1e12", ["chip.flops.bf16 is no dtype", "bfloat16"]),
        ("[chip]", "[chip]\nflops_share = 1.5", ["chip.flops_share is 1.5", "less than or equal to 1"]),
        ("[chip]", "[chip]\ntile = [8]", ["chip.tile.1 is missing"]),
        ("[chip]", "[chip", ["cannot be read", "line 4"]),
        (SMALL, "", ["name is missing", "chip is missing", "fabric is missing"]),
    ],
)
def test_what_is_wrong_is_said_with_file_key_and_remedy(written, old, new, words):
    file = written(SMALL.replace(old, new))
    with pytest.raises(MachineFileError) as caught:
        Machine.load(file)
    for word in (str(file), *words):
        assert word in str(caught.value)


def test_files_of_other_kinds_and_files_that_are_not_there(written, tmp_path):
    for file, word in ((written(SMALL, "mine.yaml"), ".toml or .json"), (tmp_path / "none.toml", "No such file")):
        with pytest.raises(MachineFileError, match=word):
            Machine.load(file)
    with pytest.raises(MachineFileError, match=r"list\.json"):
        Machine.load(written("[1]", "list.json"))


def test_a_name_that_is_none_says_how_to_make_a_file():
    with pytest.raises(UnknownMachineError, match=r"'my-cluster'.*\.toml.*machines --show"):
        machine_named("my-cluster")


def test_the_command_shows_a_file_and_says_what_is_wrong_with_it(written):
    shown = CliRunner().invoke(app, ["machines", "--show", "tpu-v9"])
    assert shown.exit_code == 2 and "tpu-v9" in shown.stderr and shown.stdout == ""
    shown = CliRunner().invoke(app, ["machines", "--show", str(written(SMALL.replace("link", "lnk")))])
    assert shown.exit_code == 2 and "fabric.lnk" in shown.stderr
