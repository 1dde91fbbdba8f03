"""What users touch first: the forms of `autoshard`, meshes, static and donated arguments, transformations."""

import contextlib
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import P
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from programs import mesh

import planner
from planner import Plan, autoshard, errors, stages, testing

MESH = mesh(2, 4)
EXPLICIT = mesh(2, 4, kind=AxisType.Explicit)
ABSTRACT = AbstractMesh((2, 4), ("x", "y"))
X, W, V = (
    np.random.default_rng(i).normal(size=s).astype(np.float32) for i, s in enumerate([(8, 16), (16, 32), (32, 8)])
)
eager = functools.partial(autoshard, machine=testing.EAGER)


def mlp(x, w, v):
    return jnp.tanh(x @ w) @ v


EXPECTED = np.asarray(mlp(X, W, V))


def close(actual, desired=EXPECTED):
    np.testing.assert_allclose(actual, desired, rtol=2e-5, atol=2e-5)


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


@pytest.mark.parametrize("given", [EXPLICIT, None])
def test_explicit_axes_in_context(given):
    planned = eager(mlp, mesh=given)
    with jax.set_mesh(EXPLICIT):
        out = planned(X, W, V)
        close(out)
        assert jax.typeof(out).sharding.spec == P(*planned.plan(X, W, V).out_specs, *(None,) * (2 - len(spec(out))))
        x, w = jax.device_put(X, P("x")), jax.device_put(W, P(None, "y"))
        close(planned(x, w, V) + out, 2 * EXPECTED)
        slope = jax.grad(lambda x: jnp.sum(planned(x, w, V)))(x)
        testing.assert_close(jax.grad(lambda x: jnp.sum(mlp(x, W, V)))(X), slope, "gradient", 2e-5)


def test_explicit_axes_in_a_jit():
    with jax.set_mesh(EXPLICIT):
        x, w = jax.device_put(X, P("x")), jax.device_put(W, P(None, "y"))
        close(jax.jit(lambda *args: eager(mlp, mesh=EXPLICIT)(*args) * 2)(x, w, V), 2 * EXPECTED)
        close(jax.jit(lambda *args: eager(mlp)(*args) * 2)(x, w, V), 2 * EXPECTED)


def test_an_explicit_mesh_outside_of_any_context():
    planned = eager(mlp, mesh=EXPLICIT)
    close(planned(*(jax.device_put(a, NamedSharding(EXPLICIT, P("x"))) for a in (X, W, V))))
    slope = jax.grad(lambda x: jnp.sum(planned(x, W, V)))(X)
    testing.assert_close(jax.grad(lambda x: jnp.sum(mlp(x, W, V)))(X), slope, "gradient", 2e-5)


def test_one_planned_function_inside_and_outside_of_a_context():
    planned = eager(mlp, mesh=MESH)
    for context in (MESH, EXPLICIT, MESH):
        with jax.set_mesh(context):
            close(planned(X, W, V) + 1, EXPECTED + 1)
    close(planned(X, W, V) + 1, EXPECTED + 1)


def test_make_mesh_is_accepted_as_it_comes():
    made = jax.make_mesh((2, 4), ("x", "y"))
    assert set(made.axis_types) == {AxisType.Explicit}
    close(eager(mlp, mesh=made)(X, W, V))


def test_an_abstract_mesh_plans_but_does_not_run():
    planned = eager(mlp, mesh=ABSTRACT)
    assert planned.plan(X, W, V) == eager(mlp, mesh=MESH).plan(X, W, V)
    with pytest.raises(errors.MeshError, match="no devices to run on: pass a Mesh"):
        planned(X, W, V)


def test_an_abstract_mesh_has_no_machine():
    with pytest.raises(errors.UnknownMachineError, match="name a machine, one of tpu-v4"):
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


def test_arguments_that_lie_elsewhere_are_moved_and_the_log_says_so(caplog):
    planned = eager(mlp, mesh=MESH, in_shardings=(P("x"), None, None))
    x = jax.device_put(X, NamedSharding(MESH, P(None, "y")))
    with caplog.at_level(logging.INFO, "planner"):
        close(planned(x, W, V))
    assert "x is resharded from" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "planner"):
        close(planned(jax.device_put(X, NamedSharding(MESH, P("x"))), W, V))
    assert "x is resharded" not in caplog.text


# Stages.


def test_trace_lower_compile_give_stages():
    planned = eager(mlp, mesh=MESH)
    assert isinstance(planned.trace(X, W, V), jax.stages.Traced)
    lowered = planned.lower(X, W, V)
    assert isinstance(lowered, jax.stages.Lowered)
    assert isinstance(lowered.compile(), jax.stages.Compiled)
    assert "mlp" in lowered.as_text()


def test_compiler_options_reach_the_compiler():
    with pytest.raises(Exception, match="no_such_option"):
        eager(mlp, mesh=MESH, compiler_options={"no_such_option": 1})(X, W, V)


def test_collectives_of_the_plan_are_in_the_program():
    planned = eager(mlp, mesh=MESH, in_shardings=(P(None, "x"), P("x"), P()), out_shardings=P())
    assert "all_reduce" in {c.kind for c in planned.plan(X, W, V).collectives}
    assert "all-reduce" in planned.lower(X, W, V).compile().as_text()


# Transformations around a planned function.


def loss(x, w, v):
    return jnp.sum(mlp(x, w, v) ** 2)


CONTEXTS = pytest.mark.parametrize("context", [MESH, EXPLICIT, None], ids=["auto", "explicit", "none"])
SLOPES = jax.grad(loss, argnums=(0, 1, 2))(X, W, V)


def around(context):
    return contextlib.nullcontext() if context is None else jax.set_mesh(context)


@CONTEXTS
@pytest.mark.parametrize("where", [P(), P("x"), P(None, "y")])
@pytest.mark.parametrize("jit", [jax.jit, lambda fun: fun])
def test_grad_of_a_planned_function(context, where, jit):
    planned = eager(mlp, mesh=MESH, in_shardings=(P("x"), None, None), out_shardings=P("y"))
    args = [jax.device_put(a, NamedSharding(context or MESH, where)) for a in (X, W, V)]
    with around(context):
        found = jit(jax.grad(lambda *args: jnp.sum(planned(*args) ** 2), argnums=(0, 1, 2)))(*args)
    testing.assert_close(SLOPES, found, "gradient", 2e-5)


@pytest.mark.parametrize("context", [MESH, EXPLICIT])
def test_transformations_of_a_bare_decorator(context):
    planned = eager(mlp)
    with around(context):
        found = jax.grad(lambda *args: jnp.sum(planned(*args) ** 2), argnums=(0, 1, 2))(X, W, V)
        testing.assert_close(SLOPES, found, "gradient", 2e-5)
        close(jax.jit(lambda *args: planned(*args))(X, W, V))
        close(jax.vmap(planned, (0, None, None))(np.stack([X, X]), W, V)[1])


def test_a_custom_derivative_survives_planning():
    @jax.custom_vjp
    def odd(x):
        return x * 2.0

    odd.defvjp(lambda x: (odd(x), None), lambda _, ct: (ct * 7.0,))
    slope = jax.grad(lambda x: jnp.sum(eager(lambda x: odd(x) + 1, mesh=MESH)(x)))(X)
    close(slope, np.full_like(X, 7.0))


def test_vmap_of_a_planned_function():
    xs = np.stack([X, X + 1])
    close(jax.vmap(eager(mlp, mesh=MESH), in_axes=(0, None, None))(xs, W, V), jax.vmap(mlp, (0, None, None))(xs, W, V))


def test_jit_around_a_planned_function():
    close(jax.jit(lambda *args: eager(mlp, mesh=MESH)(*args) + 1)(X, W, V), EXPECTED + 1)


def test_a_planned_function_in_a_planned_function():
    inner = eager(mlp, mesh=MESH)
    close(eager(lambda x, w, v: inner(x, w, v) * 2, mesh=MESH)(X, W, V), EXPECTED * 2)


# What nobody knows.


def halve(x):
    return jax.pure_callback(lambda x: np.asarray(x) / 2, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_an_unknown_primitive_is_replicated_and_the_note_names_its_line(caplog):
    planned = eager(lambda x, w, v: mlp(halve(x), w, v), mesh=MESH)
    with caplog.at_level(logging.WARNING, "planner"):
        plan = planned.plan(X, W, V)
    (note,) = plan.notes
    line = halve.__code__.co_firstlineno + 1
    assert "pure_callback" in note and f"test_api.py:{line}" in note and "replicated" in note
    assert note in planner.explain(plan, width=1000)
    assert note in caplog.text
    close(planned(X, W, V), mlp(X / 2, W, V))


def test_a_known_program_has_no_notes():
    assert eager(mlp, mesh=MESH).plan(X, W, V).notes == ()


def test_an_unknown_machine():
    with pytest.raises(errors.UnknownMachineError, match="no machine 'tpu-v99'; presets are tpu-v4"):
        autoshard(mlp, mesh=MESH, machine="tpu-v99")(X, W, V)


def test_a_mesh_that_divides_nothing():
    with pytest.raises(errors.MeshError, match=r"mesh axis x=7 divides no dim of this program \(sizes 8, 16, 32\)"):
        eager(mlp, mesh=AbstractMesh((7,), ("x",))).plan(X, W, V)


# Replay.


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
        (sines, (X, W, V), MESH, r"another program .* was tanh at .*test_api.py.* is sin at .*test_api.py"),
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
