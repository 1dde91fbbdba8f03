"""Saved plans, replayed: for the same program without solving, for any other refused."""

import jax.numpy as jnp
import pytest
from jax import P
from planned import MESH, V, W, X, close, eager, mlp
from programs import mesh

from planner import Plan, autoshard, errors, stages


def no_solver(*_, **__):
    raise AssertionError("the solver ran")


@pytest.fixture
def saved(tmp_path) -> Plan:
    file = tmp_path / "plan.json"
    eager(mlp, mesh=MESH).plan(X, W, V).save(file)
    return Plan.load(file)


@pytest.fixture
def unsolved(saved, monkeypatch) -> Plan:
    monkeypatch.setattr(stages, "solve", no_solver)
    return saved


def test_a_replayed_plan_is_never_solved(unsolved):
    with pytest.raises(AssertionError, match="the solver ran"):
        eager(mlp, mesh=MESH)(X, W, V)
    planned = autoshard(mlp, mesh=MESH, plan=unsolved)
    close(planned(X, W, V))
    assert planned.plan(X, W, V) == unsolved


def test_a_replayed_plan_compiles_to_the_same_program(saved):
    texts = [p.lower(X, W, V).as_text() for p in (eager(mlp, mesh=MESH), autoshard(mlp, mesh=MESH, plan=saved))]
    assert texts[0] == texts[1]


def sines(x, w, v):
    return jnp.sin(x @ w) @ v


@pytest.mark.parametrize(
    ("fun", "args", "on", "message"),
    [
        (mlp, (X, W, V), mesh(4, 2), r"for mesh \{'x': 2, 'y': 4\}, this is \{'x': 4, 'y': 2\}"),
        (mlp, (X, W, V), mesh(8), r"this is \{'x': 8\}"),
        (mlp, (X[:4], W, V), MESH, r"argument x is float32\[4, 16\], the plan has x float32\[8, 16\]"),
        (mlp, (X.astype(jnp.bfloat16), W, V), MESH, r"x is bfloat16\[8, 16\], the plan has x float32"),
        (sines, (X, W, V), MESH, r"another program .* was tanh at .*planned.py.* is sin at .*test_match.py"),
        (lambda x, w: x @ w, (X, W), MESH, "has 2 array arguments, the plan 3"),
        (lambda a, w, v: mlp(a, w, v), (X, W, V), MESH, "argument a .* the plan has x"),
    ],
)
def test_a_plan_for_something_else_is_refused(unsolved, fun, args, on, message):
    with pytest.raises(errors.PlanMismatchError, match=message):
        autoshard(fun, mesh=on, plan=unsolved)(*args)


def test_a_plan_is_refused_where_donations_differ(unsolved):
    with pytest.raises(errors.PlanMismatchError, match="another program"):
        autoshard(mlp, mesh=MESH, plan=unsolved, donate_argnums=0)(X, W, V)


def test_a_plan_is_refused_where_the_users_specs_differ(unsolved):
    other = P("y") if unsolved.in_specs[0] != P("y") else P("x")
    with pytest.raises(errors.PlanMismatchError, match=r"x is to have P.*'[xy]'.*, the plan has P.*: plan again"):
        autoshard(mlp, mesh=MESH, plan=unsolved, in_shardings=(other, None, None))(X, W, V)
