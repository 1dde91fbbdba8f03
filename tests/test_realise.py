"""Planned functions among others: in mesh contexts, under transformations, as stages."""

import contextlib
import logging

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from jax import P
from jax.sharding import AxisType, NamedSharding
from planned import EXPECTED, EXPLICIT, MESH, SLOW_LINKS, V, W, X, close, eager, mlp, residual, residual_specs

from planner import autoshard, testing


@pytest.mark.parametrize("given", [EXPLICIT, None])
def test_explicit_axes_in_context(given):
    planned = eager(mlp, mesh=given)
    with jax.set_mesh(EXPLICIT):
        out = planned(X, W, V)
        close(out)
        assert jax.typeof(out).sharding.mesh.axis_types == EXPLICIT.axis_types
        assert out.sharding.is_equivalent_to(NamedSharding(EXPLICIT, planned.plan(X, W, V).out_specs), 2)
        x, w = jax.device_put(X, P("x")), jax.device_put(W, P(None, "y"))
        close(planned(x, w, V) + out, 2 * EXPECTED)
        slope = jax.grad(lambda x: jnp.sum(planned(x, w, V)))(x)
        testing.assert_close(jax.grad(lambda x: jnp.sum(mlp(x, W, V)))(X), slope, "gradient", 2e-5)


def test_explicit_axes_in_a_jit():
    with jax.set_mesh(EXPLICIT):
        x, w = jax.device_put(X, P("x")), jax.device_put(W, P(None, "y"))
        close(jax.jit(lambda *args: eager(mlp, mesh=EXPLICIT)(*args) * 2)(x, w, V), 2 * EXPECTED)
        close(jax.jit(lambda *args: eager(mlp)(*args) * 2)(x, w, V), 2 * EXPECTED)


def test_an_explicit_mesh_outside_of_any_context(caplog):
    planned = eager(mlp, mesh=EXPLICIT)
    close(planned(*(jax.device_put(a, NamedSharding(EXPLICIT, P("x"))) for a in (X, W, V))))
    with caplog.at_level(logging.INFO, "planner"):
        close(planned(*(jax.device_put(*pair) for pair in zip((X, W, V), there(planned.plan(X, W, V))))))
    assert not caplog.records
    slope = jax.grad(lambda x: jnp.sum(planned(x, W, V)))(X)
    testing.assert_close(jax.grad(lambda x: jnp.sum(mlp(x, W, V)))(X), slope, "gradient", 2e-5)


def there(plan):
    return [NamedSharding(EXPLICIT, spec) for spec in plan.in_specs]


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


@pytest.mark.parametrize("context", [MESH, EXPLICIT], ids=["auto", "explicit"])
def test_the_compiler_lays_arguments_out_once(context):
    def step(state, w, *, bias):
        return state.at[0].set(bias), state @ w

    planned = autoshard(step, mesh=MESH, machine=SLOW_LINKS, donate_argnames="state", auto_layouts=True)
    with jax.set_mesh(context):
        state, w, bias = planned.put(jnp.array(X), W, bias=X[1])
        kept = w.addressable_data(0).unsafe_buffer_pointer()
        assert planned.put(state, w, bias=bias)[1].addressable_data(0).unsafe_buffer_pointer() == kept
        state, _ = planned(state, w, bias=bias)
        state, y = planned(state, w, bias=bias)
        close(state, jnp.array(X).at[0].set(X[1]))
        close(y, jnp.array(X).at[0].set(X[1]) @ W)
        close(planned(np.array(X), np.array(W), bias=np.array(X[1]))[1], X @ W)


def test_what_is_laid_out_lies_as_the_compiler_wants_it():
    planned = autoshard(mlp, mesh=MESH, machine=SLOW_LINKS, auto_layouts=True)
    wanted = planned.lower(X, W, V).compile().input_formats[0]
    assert [x.format.layout for x in planned.put(X, W, V)] == [f.layout for f in wanted]


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


@pytest.mark.parametrize("axes", [(4, 2), (2, 2, 2)])
def test_rings_that_a_plan_chooses_compute_the_same(axes):
    mesh, rng = programs.mesh(*axes), np.random.default_rng(0)
    w = {"up": rng.normal(size=(64, 128)) / 8, "down": rng.normal(size=(128, 64)) / 12}
    w, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (w, rng.normal(size=(32, 64))))
    options = {"in_shardings": (residual_specs(mesh), P(None, "x")), "out_shardings": P(None, "x")}
    planned = autoshard(residual, mesh=mesh, machine=SLOW_LINKS, **options)
    plan = planned.plan(w, x)
    assert {op.ring.kind for op in plan.operations if op.ring} == {"all_gather", "reduce_scatter"}
    assert any(op.ring.opened for op in plan.operations if op.ring)
    testing.assert_close(residual(w, x), planned(w, x), "value", 2e-5)
    expected, slopes = (
        jax.grad(lambda w, x, f=f: jnp.sum(jnp.sin(f(w, x))), (0, 1))(w, x) for f in (residual, planned)
    )
    testing.assert_close(expected, slopes, "gradient", 5e-5)
    text = planned.lower(w, x).compile().as_text()
    assert "collective-permute" in text


def test_rings_inside_of_a_scan_and_remat():
    mesh, rng = programs.mesh(4, 2), np.random.default_rng(1)
    w = {"up": rng.normal(size=(3, 64, 128)) / 8, "down": rng.normal(size=(3, 128, 64)) / 12}
    w, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (w, rng.normal(size=(32, 64))))

    def loss(w, x):
        return jnp.mean(jax.lax.scan(jax.checkpoint(lambda x, w: (residual(w, x), None)), x, w)[0] ** 2)

    grad = jax.value_and_grad(loss)
    planned = autoshard(grad, mesh=mesh, machine=SLOW_LINKS, in_shardings=(residual_specs(mesh, None), None))
    plan = planned.plan(w, x)
    assert sum(op.ring is not None for op in plan.operations) > 2
    testing.assert_close(grad(w, x), planned(w, x), "value and gradient", 5e-5)
