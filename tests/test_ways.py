"""Every way in which JAX runs a function: exported, restored into, compiled once for all runs."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.export
import numpy as np
import pytest
from planned import EXPLICIT, MESH, V, W, X, close, eager, mlp

from planner import Plan

TESTS = Path(__file__).parent


@pytest.mark.parametrize("mesh", [MESH, EXPLICIT], ids=["auto", "explicit"])
def test_a_planned_function_is_exported_with_its_shardings(mesh):
    planned = eager(mlp, mesh=mesh)
    shardings = [x.sharding for x in planned.plan(X, W, V).abstract_args(MESH)]
    exported = jax.export.export(jax.jit(planned, in_shardings=tuple(shardings)))(X, W, V)
    again = jax.export.deserialize(exported.serialize())
    assert again.nr_devices == 8 and "sharding" in str(exported.mlir_module())
    args = [jax.device_put(x, s) for x, s in zip((X, W, V), shardings)]
    close(jax.jit(again.call)(*args))


def test_a_checkpoint_is_restored_straight_into_the_planned_shardings(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax is not installed")

    def fun(params, x):
        return mlp(x, params["w"], params["v"])

    planned = eager(fun, mesh=MESH)
    plan = planned.plan({"w": W, "v": V}, X)
    abstract = plan.abstract_args(MESH)[0]
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", {"w": W, "v": V})
        checkpointer.wait_until_finished()
        params = checkpointer.restore(tmp_path / "params", abstract)
    for name, spec in plan.in_specs[0].items():
        assert params[name].sharding.is_equivalent_to(jax.NamedSharding(MESH, spec), 2)
    assert any(len(spec) for spec in plan.in_specs[0].values())
    close(planned(params, X))


def test_a_plan_from_a_file_restores_too(tmp_path):
    plan = eager(mlp, mesh=MESH).plan(X, W, V)
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json").abstract_args(MESH)
    assert [x.sharding for x in loaded] == [x.sharding for x in plan.abstract_args(MESH)]


def test_compiled_once_and_planned_the_same_whatever_the_hash_seed(tmp_path):
    """The second process finds in the persistent cache all that it compiles, and makes the same plan."""

    def run(seed: int) -> tuple[str, set[str]]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
            "PYTHONHASHSEED": str(seed),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
        }
        command = [sys.executable, str(TESTS / "worker.py"), "alone", "0", "1", "0"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout, {file.name for file in tmp_path.iterdir() if file.name.endswith("-cache")}

    first, second = run(1), run(2)
    assert first[0].startswith("plan ") and first == second
    assert any("jit_mlp" in name for name in first[1])


def test_inputs_that_lie_elsewhere_are_moved_not_recompiled():
    planned = eager(mlp, mesh=MESH)
    close(planned(X, W, V))
    close(planned(*(jax.device_put(x, jax.devices()[3]) for x in (X, W, V))))
    close(planned(*(jax.device_put(x, jax.NamedSharding(MESH, jax.P("x"))) for x in (X, W, V))))
    (ready,) = planned._ready.values()
    assert ready.jitted._cache_size() == 1 and np.ndim(X) == 2
