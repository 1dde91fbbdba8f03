"""The user's word is kept, or refused with the reason."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import P
from jax.sharding import NamedSharding
from planned import ABSTRACT, MESH, V, W, X, close, eager, mlp

from planner import errors


def refused(error, message, fun=mlp, args=(X, W, V), **options):
    with pytest.raises(error, match=message):
        eager(fun, mesh=ABSTRACT, **options).plan(*args)


def test_an_axis_that_the_mesh_does_not_have():
    message = r"w: spec .*'model'.* names mesh axis 'model'; the mesh has x=2,y=4"
    refused(errors.MeshError, message, in_shardings=(None, P("model"), None))
    refused(errors.MeshError, "result 0: spec .* names mesh axis 'z'", out_shardings=P("x", "z"))


def test_too_many_dims():
    refused(errors.SpecConflictError, "v has 2 dims, its spec .* names 3", in_shardings=(None, None, P("x", None, "y")))
    refused(errors.SpecConflictError, "result 0 has 2 dims", out_shardings=P(None, None, "y"))


def test_an_axis_twice():
    refused(errors.SpecConflictError, "x: spec .* uses a mesh axis twice", in_shardings=(P("x", "x"), None, None))


def test_a_dim_that_does_not_divide():
    args = (jnp.ones((6, 16)), W, V)
    message = r"x float32\[6, 16\] cannot have the spec .*'y'.* on mesh x=2,y=4: every mesh axis must divide its dim"
    refused(errors.SpecConflictError, message, args=args, in_shardings=(P("y"), None, None))
    refused(errors.SpecConflictError, r"result 0 float32\[6, 8\] cannot", args=args, out_shardings=P(("x", "y")))


def test_a_constraint_inside_that_does_not_divide_names_its_line():
    def fun(x):
        return jax.lax.with_sharding_constraint(jnp.sin(x), P(None, "y")) * 2

    message = r"sharding_constraint float32\[8, 6\] cannot have the spec .* at .*test_user_specs.py:\d+ "
    refused(errors.SpecConflictError, message, fun, (X[:, :6],))


def step(state, x):
    return state + x, jnp.sum(x)


def test_donated_state_in_two_specs():
    message = r"state is donated and result 0 takes its place, but in_shardings says .*'x'.* and out_shardings .*'y'"
    options: Any = {"in_shardings": (P("x"), None), "out_shardings": (P("y"), None)}
    refused(errors.SpecConflictError, message, step, (X, X), donate_argnums=0, **options)
    plan = eager(step, mesh=ABSTRACT, **options).plan(X, X)
    assert (plan.in_specs[0], plan.out_specs[0]) == (P("x"), P("y"))


@pytest.mark.parametrize("side", [{"in_shardings": (P("y"), None)}, {"out_shardings": (P("y"), None)}])
def test_a_spec_on_one_side_of_donated_state_holds_for_both(side):
    plan = eager(step, mesh=ABSTRACT, donate_argnums=0, **side).plan(X, X)
    assert plan.in_specs[0] == plan.out_specs[0] == P("y")


@pytest.mark.parametrize("side", ["in_shardings", "out_shardings"])
def test_a_tree_that_is_no_prefix(side):
    refused(errors.SpecConflictError, f"{side} is no prefix", **{side: (P("x"), {"a": P("y")})})


def test_something_that_is_no_spec():
    refused(errors.SpecConflictError, "x: 'y' is no spec: give a PartitionSpec", in_shardings=("y", None, None))


def test_a_sharding_stands_for_its_spec():
    plan = eager(mlp, mesh=MESH, in_shardings=(NamedSharding(MESH, P("x")), None, None)).plan(X, W, V)
    assert plan.in_specs[0] == P("x")


def test_one_spec_for_all():
    plan = eager(mlp, mesh=ABSTRACT, in_shardings=P("x"), out_shardings=P(None, "y")).plan(X, W, V)
    assert plan.in_specs == (P("x"),) * 3
    assert plan.out_specs == P(None, "y")


def test_nones_at_the_end_and_single_axes_in_tuples_mean_nothing():
    plans = [eager(mlp, mesh=ABSTRACT, in_shardings=(s, None, None)).plan(X, W, V) for s in (P("x"), P(("x",), None))]
    assert plans[0] == plans[1]


def test_an_empty_spec_is_replicated():
    plan = eager(mlp, mesh=ABSTRACT, in_shardings=P()).plan(X, W, V)
    assert plan.in_specs == (P(), P(), P())


def test_unconstrained_dims_are_the_planners():
    kept = eager(mlp, mesh=ABSTRACT, in_shardings=(None, P(P.UNCONSTRAINED, "y"), None)).plan(X, W, V)
    assert "y" in kept.arguments[1].spec[1]


def test_arguments_by_name_are_the_planners():
    planned = eager(lambda x, *, w: x @ w, mesh=MESH, in_shardings=(P("x"),))
    assert planned.plan(X, w=W).arguments[0].spec == (("x",), ())
    close(planned(X, w=W), X @ W)
