import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from jax.extend.core import check_jaxpr  # noqa: TID251
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from passes import jaxpr
from passes.constrain import Pin, constrain
from passes.jaxpr import Path

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32) / 4


def constraints(closed):
    return [eqn for _, eqn in jaxpr.walk(closed) if jaxpr.primitive_name(eqn) == "sharding_constraint"]


def find(closed, name):
    return [path for path, eqn in jaxpr.walk(closed) if jaxpr.primitive_name(eqn) == name]


def split(variables):
    return tuple(P("x") if v.aval.shape == (8, 8) else None for v in variables)


def qkv(x, q, k, v):
    return x @ q, x @ k, x @ v


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_compiled_shardings_are_as_pinned(kind):
    mesh = programs.mesh(4, 2, kind=kind)
    closed = jax.make_jaxpr(lambda a, b: jnp.tanh(a @ b))(X, X)
    pins: dict[Path, Pin] = {(0,): Pin((P("x", None), None), (None,)), (1,): Pin((None,), (P(None, ("y", "x")),))}
    new = constrain(closed, pins, mesh, {(): (None, P("y"))})
    check_jaxpr(new.jaxpr)
    compiled = jax.jit(jaxpr.as_fun(new)).lower(X, X).compile()
    auto = programs.mesh(4, 2)
    (out,) = compiled.output_shardings
    assert out.is_equivalent_to(NamedSharding(auto, P(None, ("y", "x"))), 2)
    specs = [NamedSharding(auto, spec) for spec in (P("x"), P("y"))]
    assert [s.is_equivalent_to(t, 2) for s, t in zip(compiled.input_shardings[0], specs)] == [True, True]
    np.testing.assert_allclose(compiled(X, X)[0], jnp.tanh(X @ X), rtol=1e-5)


def test_one_constraint_serves_all_readers():
    closed = jax.make_jaxpr(qkv)(X, X, X, X)
    new = constrain(closed, {(i,): Pin((P(), None), (None,)) for i in range(3)}, programs.mesh(8))
    check_jaxpr(new.jaxpr)
    assert len(constraints(new)) == 1
    given = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=NamedSharding(programs.mesh(8), P("x")))
    hlo = jax.jit(jaxpr.as_fun(new)).lower(given, X, X, X).compile().as_text() or ""
    assert hlo.count(" all-gather(") == 1


def test_other_specs_and_other_values_are_not_shared():
    closed = jax.make_jaxpr(qkv)(X, X, X, X)
    pins: dict[Path, Pin] = {(0,): Pin((P("x"), P("x")), (None,)), (1,): Pin((P(None, "x"), P("x")), (None,))}
    assert len(constraints(constrain(closed, pins, programs.mesh(8)))) == 4


def test_a_pinned_result_is_not_pinned_again_by_its_reader():
    closed = jax.make_jaxpr(lambda x: jnp.tanh(jnp.sin(x)))(X)
    pins: dict[Path, Pin] = {(0,): Pin((None,), (P("x"),)), (1,): Pin((P("x"),), (None,))}
    assert len(constraints(constrain(closed, pins, programs.mesh(8)))) == 1


def test_constraints_of_the_user_are_left_alone():
    mesh = programs.mesh(8)

    def fun(x):
        return [jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P("x"))) for _ in range(2)]

    closed = jax.make_jaxpr(fun)(X)
    assert constrain(closed, {}, mesh) is closed


@pytest.mark.parametrize("fun", [f for f in programs.ALL if f is not programs.shard_map])
def test_pins_reach_every_body(fun):
    closed = jax.make_jaxpr(fun)(X)
    pins = {path: Pin(split(eqn.invars), split(eqn.outvars)) for path, eqn in jaxpr.walk(closed)}
    new = constrain(closed, pins, programs.mesh(8))
    check_jaxpr(new.jaxpr)
    assert constraints(new)
    np.testing.assert_allclose(jax.jit(jaxpr.as_fun(new))(X)[0], jax.jit(fun)(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fun", [programs.scan, programs.remat, programs.jit, programs.nested])
def test_gradients_stay(fun):
    closed = jax.make_jaxpr(fun)(X)
    pins = {path: Pin((None,), (P("x"),)) for path in find(closed, "sin")}
    run = jaxpr.as_fun(constrain(closed, pins, programs.mesh(8), {(): (P(None, "x"),)}))
    expected = jax.jit(jax.grad(lambda x: jnp.sum(fun(x) ** 2)))(X)
    actual = jax.jit(jax.grad(lambda x: jnp.sum(run(x)[0] ** 2)))(X)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_inputs_of_a_scan_body():
    closed = jax.make_jaxpr(programs.scan)(X)
    new = constrain(closed, {}, programs.mesh(8), {(0, "jaxpr"): (P(None, "x"), P("x"))})
    check_jaxpr(new.jaxpr)
    paths = find(new, "sharding_constraint")
    assert [path[:-1] for path in paths] == [(0, "jaxpr")] * 2
    specs = [eqn.params["sharding"].spec for eqn in constraints(new)]
    assert specs == [P(None, "x"), P("x")]
    np.testing.assert_allclose(jax.jit(jaxpr.as_fun(new))(X)[0], programs.scan(X), rtol=1e-5)


def test_an_abstract_mesh_is_enough():
    closed = jax.make_jaxpr(jnp.sin)(X)
    new = constrain(closed, {(0,): Pin((P("x"),), (None,))}, programs.mesh(8).abstract_mesh)
    assert constraints(new)[0].params["sharding"].spec == P("x")


def test_names_lead_to_the_user_and_to_us():
    def fun(x):
        with jax.named_scope("attention"):
            return jnp.sin(x)

    new = constrain(jax.make_jaxpr(fun)(X), {(0,): Pin((P("x"),), (None,))}, programs.mesh(8))
    (eqn,) = constraints(new)
    assert str(eqn.source_info.name_stack) == "attention/meshplan"
    assert jaxpr.source(eqn).endswith("fun)")


@pytest.mark.parametrize(
    "spec, words",
    [
        (P(None, None, "x"), "the spec has 3 dims, the value 2"),
        (P("q"), "no axis 'q', only 'x', 'y'"),
        (P("x", "x"), "one dim only"),
        (P(("x", "y")), "7 is not divisible by 8"),
    ],
)
def test_specs_that_do_not_fit(spec, words):
    closed = jax.make_jaxpr(lambda x: jnp.sin(x[:7]))(X)
    (path,) = find(closed, "sin")
    with pytest.raises(ValueError, match=rf"at {jaxpr.show(path)}, sin from .*test_constrain.py.*cannot pin") as error:
        constrain(closed, {path: Pin((spec,), (None,))}, programs.mesh(4, 2))
    assert words in str(error.value)


def test_a_scalar_cannot_be_split():
    closed = jax.make_jaxpr(lambda x: jnp.sum(x) + 1.0)(X)
    with pytest.raises(ValueError, match=r"at 0, reduce_sum from .*cannot pin float32\[\] to"):
        constrain(closed, {(0,): Pin((None,), (P("x"),))}, programs.mesh(8))


def test_unknown_paths():
    closed = jax.make_jaxpr(programs.scan)(X)
    with pytest.raises(ValueError, match=r"no such equation or body: 9/jaxpr/1, 0"):
        constrain(closed, {(9, "jaxpr", 1): Pin((), ())}, programs.mesh(8), {(0,): ()})


def test_one_spec_for_each_value():
    closed = jax.make_jaxpr(jnp.sin)(X)
    with pytest.raises(ValueError, match=r"at 0, sin from .*: 2 specs for 1 operands"):
        constrain(closed, {(0,): Pin((None, None), (None,))}, programs.mesh(8))
    with pytest.raises(ValueError, match=r"at the top: 0 specs for 1 inputs"):
        constrain(closed, {}, programs.mesh(8), {(): ()})


def test_a_shard_map_is_pinned_from_outside():
    closed = jax.make_jaxpr(programs.shard_map)(X)
    (path,) = find(closed, "sin")
    with pytest.raises(ValueError, match=r"at 0/jaxpr/0: inside of a shard_map"):
        constrain(closed, {path: Pin((P(),), (None,))}, programs.mesh(8))
    new = constrain(closed, {(0,): Pin((P("x"),), (P(None, "x"),))}, programs.mesh(8))
    np.testing.assert_allclose(jax.jit(jaxpr.as_fun(new))(X)[0], jax.jit(programs.shard_map)(X), rtol=1e-6)


def test_bodies_of_pinned_equations_are_not_traced_again():
    closed = jax.make_jaxpr(programs.scan)(X)
    ((path, eqn),) = [(p, e) for p, e in jaxpr.walk(closed) if jaxpr.primitive_name(e) == "scan"]
    new = constrain(closed, {path: Pin((P("x"), None), (None, P("x")))}, programs.mesh(8))
    (kept,) = [e for _, e in jaxpr.walk(new) if jaxpr.primitive_name(e) == "scan"]
    assert kept.params["jaxpr"] is eqn.params["jaxpr"]
    assert len(constraints(new)) == 2
