"""What users touch first: the forms of `autoshard`, static, named and donated arguments, specs."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import AbstractMesh, NamedSharding
from planned import ABSTRACT, MESH, V, W, X, close, eager, mlp
from programs import mesh

import planner
from planner import autoshard, errors, testing


def spec(x) -> P:
    """The spec of an array as it lies, without trailing Nones."""
    entries = list(x.sharding.spec)
    while entries and entries[-1] is None:
        entries.pop()
    return P(*entries)


def test_the_plan_splits_something():
    plan = eager(mlp, mesh=MESH).plan(X, W, V)
    assert any(axes for value in plan.arguments for axes in value.spec)
    assert plan.collectives


def test_a_bare_decorator_takes_mesh_and_machine_from_the_context():
    @autoshard
    def fun(x, w, v):
        """The docs."""
        return mlp(x, w, v)

    with jax.set_mesh(MESH):
        close(fun(X, W, V))
        assert fun.plan(X, W, V).machine == "cpu"
    assert (fun.__name__, fun.__doc__) == ("fun", "The docs.")


def test_a_decorator_with_keywords():
    @autoshard(mesh=MESH, machine="tpu-v4")
    def fun(x, w, v):
        return mlp(x, w, v)

    close(fun(X, W, V))
    assert fun.plan(X, W, V).machine == "tpu-v4"


def test_a_call():
    close(eager(mlp, mesh=MESH)(X, W, V))


def test_methods_are_planned():
    class Model:
        @autoshard(mesh=MESH, machine=testing.EAGER, static_argnums=0)
        def forward(self, x, w, v):
            return mlp(x, w, v)

    close(Model().forward(X, W, V))


def test_a_callable_object_keeps_its_fields_to_itself():
    class Model:
        def __init__(self):
            self.mesh, self.fun, self.plan, self.options = "mine", None, None, None

        def __call__(self, x, w, v):
            assert self.mesh == "mine"
            return mlp(x, w, v)

    close(eager(Model(), mesh=MESH)(X, W, V))


def test_no_mesh_says_how_to_give_one():
    with pytest.raises(errors.MeshError, match=r"pass mesh=.* or enter `with jax.set_mesh"):
        eager(mlp)(X, W, V)


def test_an_abstract_mesh_in_context_plans():
    with jax.sharding.use_abstract_mesh(ABSTRACT):
        plan = eager(mlp).plan(X, W, V)
    assert plan == eager(mlp, mesh=MESH).plan(X, W, V)


def test_an_abstract_mesh_plans_but_does_not_run():
    planned = eager(mlp, mesh=ABSTRACT)
    assert planned.plan(X, W, V) == eager(mlp, mesh=MESH).plan(X, W, V)
    with pytest.raises(errors.MeshError, match="no devices to run on: pass a Mesh"):
        planned(X, W, V)


def test_an_abstract_mesh_has_no_machine():
    with pytest.raises(errors.UnknownMachineError, match=r"name a machine, one of .*tpu-v4"):
        autoshard(mlp, mesh=ABSTRACT).plan(X, W, V)


def test_shapes_are_enough_to_plan():
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in (X, W, V)]
    planned = eager(mlp, mesh=MESH)
    assert planned.plan(*shapes) == planned.plan(X, W, V)
    compiled = planned.lower(*shapes).compile()
    close(compiled(*(jax.device_put(a, s) for a, s in zip((X, W, V), compiled.input_shardings[0]))))


def test_one_plan_per_set_of_shapes():
    calls = []

    def fun(x, w):
        calls.append(x.shape)
        return x @ w

    planned = eager(fun, mesh=MESH)
    for x in (X, X + 1, X[:4], X[:4] * 2, X):
        close(planned(x, W), x @ W)
    assert calls == [(8, 16), (4, 16)]


def test_meshes_in_context_have_plans_of_their_own():
    planned = eager(mlp)
    for other in (MESH, mesh(8), mesh(2, 2, 2)):
        with jax.set_mesh(other):
            close(planned(X, W, V))
            assert planned.plan(X, W, V).mesh == dict(other.shape)


# Keywords, static arguments.


def scaled(x, w, power=1, *, negate=False):
    y = (x @ w) ** power
    return -y if negate else y


def test_keywords_may_stand_for_positions():
    planned = eager(mlp, mesh=MESH)
    close(planned(X, v=V, w=W))
    assert planned.plan(X, v=V, w=W) is planned.plan(X, W, V)


@pytest.mark.parametrize("static", [{"static_argnums": 2}, {"static_argnames": "power"}])
def test_static_arguments(static):
    planned = eager(scaled, mesh=MESH, **static)
    close(planned(X, W, 2), (X @ W) ** 2)
    close(planned(X, W, power=3), (X @ W) ** 3)
    close(planned(X, W), X @ W)
    assert len(planned.plan(X, W, 2).arguments) == 2


def test_static_keyword_only_arguments():
    planned = eager(scaled, mesh=MESH, static_argnames=("power", "negate"))
    close(planned(X, W, 2, negate=True), -((X @ W) ** 2))
    close(planned(X, W, negate=True), -(X @ W))
    close(planned(X, W), X @ W)


def test_keyword_only_arrays():
    def fun(x, scale=1.0, *, w, v):
        return x @ w @ v * scale

    planned = eager(fun, mesh=MESH)
    close(planned(X, w=W, v=V), X @ W @ V)
    close(planned(X, 2.0, v=V, w=W), X @ W @ V * 2)


def test_pytrees_none_and_scalars():
    def fun(params, x, scale, nothing=None):
        return {"y": [x @ params["w"] * scale], "none": nothing}

    planned = eager(fun, mesh=MESH)
    out = planned({"w": W}, X, 2.0)
    close(out["y"][0], X @ W * 2)
    assert out["none"] is None
    close(planned({"w": W}, X, 3)["y"][0], X @ W * 3)


def test_random_keys_are_arguments():
    def fun(key, x):
        return x + jax.random.normal(key, x.shape)

    key = jax.random.key(0)
    close(eager(fun, mesh=MESH)(key, X), fun(key, X))


# Donation.


def step(state, x):
    return {"w": state["w"] + x.T @ x, "n": state["n"] + 1}, jnp.sum(x)


def state():
    return {"w": jnp.ones((16, 16)), "n": jnp.int32(0)}


@pytest.mark.parametrize("donated", [{"donate_argnums": 0}, {"donate_argnames": "state"}])
def test_donated_state_keeps_one_spec_and_gives_its_buffers(donated):
    planned = eager(step, mesh=MESH, **donated, memory_limit=10_000.0)
    plan = planned.plan(state(), X)
    assert plan.in_specs[0] == plan.out_specs[0]
    first, _ = planned(state(), X)
    compiled = planned.lower(state(), X).compile()
    assert compiled.memory_analysis().alias_size_in_bytes > 0
    second, _ = planned(first, X)
    assert first["w"].is_deleted() and not second["w"].is_deleted()
    close(second["w"], 1 + 2 * X.T @ X)
    assert int(second["n"]) == 2


def test_nothing_is_donated_unasked():
    planned = eager(step, mesh=MESH)
    first, _ = planned(state(), X)
    planned(first, X)
    assert not first["w"].is_deleted()


# The user's specs.


def test_in_and_out_shardings_are_those_of_the_compiled_program():
    ins, out = (P("x"), P(None, "y"), P()), P("y", "x")
    planned = eager(mlp, mesh=MESH, in_shardings=ins, out_shardings=out)
    compiled = planned.lower(X, W, V).compile()
    assert planned.plan(X, W, V).in_specs == ins
    for sharding, want, a in zip(compiled.input_shardings[0], ins, (X, W, V)):
        assert sharding.is_equivalent_to(NamedSharding(MESH, want), a.ndim)
    assert compiled.output_shardings.is_equivalent_to(NamedSharding(MESH, out), 2)
    result = planned(X, W, V)
    assert spec(result) == out
    close(result)


def test_shardings_are_prefixes_and_none_is_free():
    def fun(params, x):
        return x @ params["w"] @ params["v"], x

    planned = eager(fun, mesh=MESH, in_shardings=(P("x"), None), out_shardings=(None, P("x", "y")))
    plan = planned.plan({"w": W, "v": V}, X)
    assert plan.in_specs[0] == {"v": P("x"), "w": P("x")}
    assert plan.out_specs[1] == P("x", "y")
    free = eager(fun, mesh=MESH).plan({"w": W, "v": V}, X)
    assert free.in_specs[0] != plan.in_specs[0]


def test_a_spec_with_two_axes_keeps_their_order():
    planned = eager(mlp, mesh=MESH, in_shardings=(None, P(None, ("y", "x")), None))
    assert planned.plan(X, W, V).in_specs[1] == P(None, ("y", "x"))
    close(planned(X, W, V))


@pytest.mark.parametrize("pin", [P("y", "x"), P(None, ("x", "y")), P("x")])
def test_constraints_inside_of_the_model_are_honoured(pin):
    def fun(x, w, v):
        hidden = jax.lax.with_sharding_constraint(jnp.tanh(x @ w), pin)
        return hidden @ v

    planned = eager(fun, mesh=MESH)
    plan = planned.plan(X, W, V)
    (op,) = [op for op in plan.operations if op.primitive == "sharding_constraint"]
    wanted = tuple(() if e is None else (e,) if isinstance(e, str) else e for e in (*pin, None, None)[:2])
    assert op.results == ((wanted,),)
    close(planned(X, W, V))


# What nobody knows.


def halve(x):
    return jax.pure_callback(lambda x: np.asarray(x) / 2, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_a_callback_is_replicated_and_the_note_names_its_line(caplog):
    planned = eager(lambda x, w, v: mlp(halve(x), w, v), mesh=MESH)
    with caplog.at_level(logging.WARNING, "planner"):
        plan = planned.plan(X, W, V)
    (note,) = plan.notes
    line = halve.__code__.co_firstlineno + 1
    assert "pure_callback" in note and f"test_api.py:{line}" in note and "whole on every device" in note
    assert note in planner.explain(plan, width=1000)
    assert note in caplog.text
    close(planned(X, W, V), mlp(X / 2, W, V))


def test_unknown_primitives_in_a_loop_under_remat_are_right():
    def fun(x, ws):
        return jax.lax.scan(jax.checkpoint(lambda x, w: (halve(jnp.tanh(x @ w)), None)), x, ws)[0]

    planned, ws = eager(fun, mesh=MESH), np.stack([W[:, :16]] * 3)
    assert "pure_callback" in planned.plan(X, ws).notes[0]
    close(planned(X, ws), fun(X, ws))


def test_gradients_of_a_softmax_are_all_known():
    slope = jax.grad(lambda x: jnp.sum(jax.nn.softmax(x, 0) ** 2))
    assert eager(slope, mesh=MESH).plan(X).notes == ()


def test_a_known_program_has_no_notes():
    assert eager(mlp, mesh=MESH).plan(X, W, V).notes == ()


def test_an_unknown_machine():
    with pytest.raises(errors.UnknownMachineError, match=r"no machine 'tpu-v99'; presets are .*tpu-v4"):
        autoshard(mlp, mesh=MESH, machine="tpu-v99")(X, W, V)


def test_a_mesh_that_divides_nothing():
    with pytest.raises(errors.MeshError, match=r"mesh axis x=7 divides no dim of this program \(sizes 8, 16, 32\)"):
        eager(mlp, mesh=AbstractMesh((7,), ("x",))).plan(X, W, V)


def test_a_keyword_that_there_is_not_is_named_at_once():
    with pytest.raises(TypeError, match="no donate_argnum; beside its own it takes static_argnums, "):
        planner.autoshard(**{"donate_argnum": 0})  # pyright: ignore[reportArgumentType]
