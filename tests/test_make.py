"""The stages together: what fits, what they measured, and that the same input gives the same bytes."""

import gc
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import AbstractMesh
from planned import ABSTRACT, MESH, V, W, X, eager, mlp

import planner
from planner import errors, make_plan, testing

SMALL = replace(testing.EAGER, name="small", chip=replace(testing.EAGER.chip, hbm_bytes=2e6))
LARGE = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(64, 1024), (1024, 4096), (4096, 1024)]]


def test_every_stage_is_timed():
    plan = make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER)
    assert set(plan.timings) == {"trace", "graph", "formulate", "presolve", "known layouts", "solve", "order", "write"}
    assert all(seconds >= 0 for seconds in plan.timings.values())
    assert "timings" not in plan.to_json()


def test_known_layouts_are_scored_on_demand():
    plan = make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, known=True)
    assert {"data parallel", "FSDP", "Megatron 1-D"} <= {k.name for k in plan.known}
    assert all(k.seconds is None or k.seconds >= plan.seconds * (1 - 1e-9) for k in plan.known)
    assert "Megatron 1-D" in planner.explain(plan)
    assert make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, known=False).known == ()


def test_progress_hears_of_every_stage():
    heard = []
    make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, progress=lambda *now: heard.append(now[0]))
    stages = ["trace", "graph", "formulate", "presolve", "known layouts", "solve", "write"]
    assert [stage for stage in dict.fromkeys(heard) if stage in stages] == stages


def test_make_plan_and_autoshard_agree():
    plans = [eager(mlp, mesh=MESH).plan(X, W, V), make_plan(mlp, *LARGE, mesh=MESH, machine=testing.EAGER, known=False)]
    assert plans[0] != plans[1]
    assert plans[0] == make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, known=False)


def test_a_program_that_does_not_fit_says_how_much_is_missing():
    with pytest.raises(errors.DoesNotFitError) as caught:
        make_plan(mlp, *LARGE, mesh=ABSTRACT, machine=SMALL)
    assert caught.value.excess > 0
    least = (1024 * 4096 * 2 + 64 * 1024) * 4 / 8
    assert caught.value.excess == pytest.approx(least - 2e6, rel=0.6)
    message = str(caught.value)
    assert "of small on mesh x=2,y=4" in message
    assert "w float32[1024, 4096]" in message and "v float32[4096, 1024]" in message
    assert "The smallest mesh that fits, widening 'x': x=8,y=4." in message
    make_plan(mlp, *LARGE, mesh=AbstractMesh((8, 4), ("x", "y")), machine=SMALL)
    with pytest.raises(errors.DoesNotFitError):
        make_plan(mlp, *LARGE, mesh=AbstractMesh((4, 4), ("x", "y")), machine=SMALL)


def test_small_misfits_have_numbers_too():
    with pytest.raises(errors.DoesNotFitError) as caught:
        make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, memory_limit=100.0)
    assert caught.value.excess > 100
    assert " 0.00 GB" not in str(caught.value)
    assert "No 'x' up to 64 times wider fits" in str(caught.value)


def test_a_limit_changes_the_plan_and_is_kept():
    free = make_plan(mlp, X, W, V, mesh=ABSTRACT, machine="tpu-v4")
    tight = make_plan(mlp, X, W, V, mesh=ABSTRACT, machine="tpu-v4", memory_limit=0.7 * free.peak_bytes)
    assert tight.peak_bytes <= tight.limit == 0.7 * free.peak_bytes
    assert tight.seconds > free.seconds


def test_a_mesh_axis_of_one_device():
    plan = make_plan(mlp, X, W, V, mesh=AbstractMesh((1, 8), ("x", "y")), machine=testing.EAGER)
    alone = make_plan(mlp, X, W, V, mesh=AbstractMesh((8,), ("y",)), machine=testing.EAGER)
    assert plan.seconds == pytest.approx(alone.seconds)
    assert [c.kind for c in plan.collectives] == [c.kind for c in alone.collectives]


SCRIPT = """
import jax
from planned import ABSTRACT
from planner import make_plan, testing
def fun(params, x):
    def layer(x, w): return jax.nn.softmax(x @ w) + x, None
    return {"y": jax.lax.scan(layer, x, params["w"])[0] @ params["b"]}
shapes = {"w": jax.ShapeDtypeStruct((3, 64, 64), "float32"), "b": jax.ShapeDtypeStruct((64, 32), "float32")}
print(make_plan(fun, shapes, jax.ShapeDtypeStruct((16, 64), "float32"), mesh=ABSTRACT, machine=testing.EAGER).to_json())
"""


def test_two_processes_write_the_same_bytes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    texts = [planned_with(seed, script) for seed in ("1", "2")]
    assert texts[0] == texts[1]
    assert '"collectives"' in texts[0]


def planned_with(seed: str, script: Path) -> str:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    code = f"import jax; jax.config.update('jax_num_cpu_devices', 8); exec(open({str(script)!r}).read())"
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_specs_and_abstract_arguments_have_the_arguments_structure():
    def fun(params, xs):
        return {"y": xs[0] @ params["w"], "z": (xs[1],)}

    ins = ({"w": P("x")}, [P("y"), None])
    plan = make_plan(fun, {"w": W}, [X, V], mesh=MESH, machine=testing.EAGER, in_shardings=ins)
    assert plan.in_specs[0] == {"w": P("x")} and plan.in_specs[1][0] == P("y")
    assert isinstance(plan.in_specs[1], list)
    assert set(plan.out_specs) == {"y", "z"} and isinstance(plan.out_specs["z"], tuple)
    abstract = plan.abstract_args(MESH)
    assert abstract[0]["w"].shape == W.shape and abstract[0]["w"].sharding.spec == P("x")
    restored = jax.tree.map(lambda a: jax.device_put(np.ones(a.shape, a.dtype), a.sharding), abstract)
    out = planner.autoshard(fun, mesh=MESH, plan=plan)(*restored)
    assert float(out["y"][0, 0]) == 16


def test_back_ends_plan_alike():
    plans = [make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, backend=b) for b in ("highs", "cp-sat")]
    assert plans[0].seconds == pytest.approx(plans[1].seconds, rel=1e-6)
    with pytest.raises(planner.PlanError, match="no solver 'glpk'; there are highs and cp-sat"):
        make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, backend="glpk")


@pytest.mark.parametrize("collects", [True, False])
def test_planning_leaves_the_garbage_collector_as_it_was(collects):
    (gc.enable if collects else gc.disable)()
    try:
        make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER)
        with pytest.raises(errors.DoesNotFitError):
            make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, memory_limit=1.0)
        assert gc.isenabled() == collects
    finally:
        gc.enable()
