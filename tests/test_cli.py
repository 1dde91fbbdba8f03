"""The command, on a workload small enough to plan at once."""

import json
import re
from pathlib import Path

import jax
import pytest
from jax.sharding import AxisType
from typer.testing import CliRunner

from planner import PRESETS, Plan, demo
from planner.cli import app, parse_mesh, progress_line
from planner.errors import MeshError

README = Path(__file__).parent.parent / "README.md"
WORKLOADS = """
import jax
import jax.numpy as jnp

def mlp():
    def step(state, weight):
        return jnp.tanh(state @ weight)
    return step, (jax.ShapeDtypeStruct((4096, 1024), jnp.bfloat16), jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16))

def wide():
    fun, (state, weight) = mlp()
    return fun, (jax.ShapeDtypeStruct((1 << 20, 1 << 20), jnp.float32), jax.ShapeDtypeStruct((1 << 20, 8), jnp.float32))

def alone():
    return jnp.tanh

def broken():
    raise RuntimeError("no such checkpoint")

number = 7
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module of workloads, whose name no other test has imported."""
    name = "workloads_" + re.sub(r"\W", "_", tmp_path.name)
    (tmp_path / f"{name}.py").write_text(WORKLOADS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def meshplan(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


def planned(here, file, *more, workload="mlp", mesh="x=2,y=2", machine="tpu-v4"):
    return meshplan("plan", f"{here}:{workload}", "--mesh", mesh, "--machine", machine, "-o", file, *more)


def refused(result, *words):
    """One clear message on stderr, exit code 2, nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def test_plan_writes_the_file_and_explains_it(here):
    result = planned(here, "a.json", "--donate", "state")
    assert result.exit_code == 0, result.output
    plan = Plan.load("a.json")
    assert plan.mesh == {"x": 2, "y": 2} and plan.machine == "tpu-v4"
    assert "state" in result.stdout and "weight" in result.stdout and "Known layouts" in result.stdout
    assert "solve" in result.stderr
    assert meshplan("explain", "a.json").stdout == result.stdout


def test_plan_is_the_same_twice(here):
    planned(here, "a.json")
    planned(here, "b.json")
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_plan_writes_nothing_unasked(here, tmp_path):
    before = {f.name for f in tmp_path.iterdir()}
    result = meshplan("plan", f"{here}:mlp", "--mesh", "x=2", "--machine", "h100", "--no-known")
    assert result.exit_code == 0, result.output
    assert "Known layouts" not in result.stdout
    assert {f.name for f in tmp_path.iterdir()} - before <= {"__pycache__"}


def test_why_tells_what_a_spec_would_cost(here):
    planned(here, "a.json", "--donate", "state")
    asked = "why", "a.json", "weight", "P(x, y)", "--workload", f"{here}:mlp"
    result = meshplan(*asked, "--donate", "state")
    assert result.exit_code == 0, result.output
    assert "weight as P('x', 'y') instead of P(" in result.stdout
    refused(meshplan(*asked), "the plan is for another program")
    refused(meshplan("why", "a.json", "nobody", *asked[3:], "--donate", "state"), "there is no value 'nobody'")


def test_compare_shows_both_sides(here):
    planned(here, "a.json")
    planned(here, "b.json", mesh="x=4,y=4")
    result = meshplan("compare", "a.json", "b.json")
    assert result.exit_code == 0, result.output
    assert "x=2,y=2" in result.stdout and "x=4,y=4" in result.stdout


def test_machines_lists_every_preset():
    result = meshplan("machines")
    assert result.exit_code == 0, result.output
    for name in PRESETS:
        assert name in result.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"machine": "tpu-v9"}, ["tpu-v9", "tpu-v4"]),
        ({"mesh": "x=2,y4"}, ["x=2,y4", "NAME=SIZE"]),
        ({"mesh": "x=2,x=2"}, ["'x'", "twice"]),
        ({"mesh": "x=7"}, ["x=7", "divide"]),
        ({"workload": "nothing"}, ["nothing", "mlp"]),
        ({"workload": "number"}, ["int", "(fun, abstract_args)"]),
        ({"workload": "alone"}, ["returned", "(fun, abstract_args)"]),
        ({"workload": "broken"}, ["no such checkpoint", ".py:18", "(fun, abstract_args)"]),
        ({"workload": "wide"}, ["no plan fits", "state"]),
    ],
)
def test_bad_words_are_refused(here, changes, words):
    refused(planned(here, "a.json", **changes), *words)
    assert not Path("a.json").exists()


def test_too_little_memory_is_refused(here):
    refused(planned(here, "a.json", "--memory-limit", "0.001"), "no plan fits", "MB more than the 1 MB")
    assert not Path("a.json").exists()


def test_unknown_donation_is_refused(here):
    refused(planned(here, "a.json", "--donate", "cache"), "cache", "state, weight")
    assert not Path("a.json").exists()


def test_unknown_module_is_refused(here, tmp_path):
    result = meshplan("plan", "no_such_module:x", "--mesh", "x=2", "--machine", "tpu-v4")
    refused(result, "no_such_module", str(tmp_path))
    refused(meshplan("plan", "no_colon", "--mesh", "x=2", "--machine", "tpu-v4"), "MODULE:NAME")


def test_a_folder_that_is_not_there_is_refused(here):
    refused(planned(here, "nowhere/a.json"), "nowhere/a.json", "folder")


def test_damaged_files_are_refused(here):
    planned(here, "a.json")
    text = Path("a.json").read_text()
    Path("cut.json").write_text(text[: len(text) // 2])
    refused(meshplan("explain", "cut.json"), "cut.json", "meshplan plan")
    refused(meshplan("compare", "a.json", "cut.json"), "cut.json")
    refused(meshplan("explain", "absent.json"), "absent.json")


def test_newer_files_are_refused(here):
    planned(here, "a.json")
    data = json.loads(Path("a.json").read_text())
    Path("a.json").write_text(json.dumps(data | {"schema_version": Plan.SCHEMA + 1}))
    refused(meshplan("explain", "a.json"), "a.json", str(Plan.SCHEMA + 1), "upgrade")


def test_parse_mesh():
    mesh = parse_mesh("x=4, y_2=16")
    assert dict(mesh.shape) == {"x": 4, "y_2": 16}
    for text in ("", "x", "x=", "x=0", "x=-1", "x=1.5", "=4", "x=2,", "x=2;y=2", "x=2 y=2"):
        with pytest.raises(MeshError, match="NAME=SIZE"):
            parse_mesh(text)


def test_progress_line():
    assert progress_line("trace", float("inf"), 0.0) == "trace"
    assert progress_line("prices", 0.0601, 0.0597) == "prices: best 60.1 ms, proven bound 59.7 ms"


def test_demo_decodes_the_same_tokens():
    mesh = jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=(AxisType.Auto,) * 3)
    run = demo.run_tiny(mesh)
    assert run.same and run.planned.shape == (demo.BATCH, demo.NEW)
    assert len(set(run.planned[0].tolist())) > 1
    assert any(any(v.spec) for v in run.plan.arguments if v.name.startswith("params['layers']"))
    assert sum(run.compiled.values()) > 0


def test_collectives_in_counts_halves_once():
    hlo = """
      %a = f32[8] all-gather(%x), dimensions={0}
      %b = (f32[8], f32[8]) all-gather-start(%x)
      %c = f32[8] all-gather-done(%b)
      %d = f32[8] fusion(%all-reduce.1), metadata={op_name="all-to-all"}
      ROOT %e = f32[8] collective-permute(%d)
    """
    found = demo.collectives_in(hlo)
    assert found == {"all_gather": 2, "reduce_scatter": 0, "all_reduce": 0, "all_to_all": 0, "permute": 1}


def test_readme_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(compile("\n".join(examples), "README.md", "exec"), {})
    assert Plan.load("mlp.plan.json").machine == "cpu"
