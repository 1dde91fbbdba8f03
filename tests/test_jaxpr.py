import functools

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, check_jaxpr  # noqa: TID251

from passes import jaxpr

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32) / 4


def trace(fun):
    return jax.make_jaxpr(fun)(X)


def again(path, eqn):
    return functools.partial(jaxpr.bind, eqn)


def count(body):
    """Counts equations from every jaxpr reachable in params, however it is packed."""
    total = 0
    for eqn in body.eqns:
        total += 1
        leaves = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: isinstance(v, Jaxpr | ClosedJaxpr))
        total += sum(count(getattr(v, "jaxpr", v)) for v in leaves if isinstance(v, Jaxpr | ClosedJaxpr))
    return total


@pytest.mark.parametrize("fun", programs.ALL)
def test_every_equation_is_visited_once(fun):
    closed = trace(fun)
    paths = [path for path, _ in jaxpr.walk(closed)]
    assert len(paths) == len(set(paths)) == count(closed.jaxpr)


def test_walk_reaches_each_construct():
    expected = {
        "jit": "0/jaxpr/1",
        "scan": "0/jaxpr/1",
        "while_": "0/body_jaxpr/1",
        "cond": "3/branches.1/0",
        "remat": "0/jaxpr/1",
        "custom_jvp": "0/call_jaxpr/1",
        "custom_vjp": "0/call_jaxpr/1",
        "shard_map": "0/jaxpr/1",
        "nested": "0/jaxpr/0/jaxpr/1/call_jaxpr/0",
    }
    for name, path in expected.items():
        paths = [jaxpr.show(path) for path, _ in jaxpr.walk(trace(getattr(programs, name)))]
        assert path in paths, (name, paths)


@pytest.mark.parametrize("fun", programs.ALL)
def test_paths_survive_text(fun):
    for path, _ in jaxpr.walk(trace(fun)):
        assert jaxpr.parse(jaxpr.show(path)) == path


@pytest.mark.parametrize("fun", programs.ALL)
def test_identity_keeps_values_and_structure(fun):
    closed = trace(fun)
    new = jaxpr.rewrite(closed, again)
    assert new is not closed
    check_jaxpr(new.jaxpr)
    np.testing.assert_array_equal(jax.jit(jaxpr.as_fun(new))(X)[0], jax.jit(fun)(X))
    kinds = [[(path, eqn.primitive) for path, eqn in jaxpr.walk(c)] for c in (closed, new)]
    assert kinds[0] == kinds[1]
    packed = [[(k, type(v)) for _, eqn in jaxpr.walk(c) for k, v in eqn.params.items()] for c in (closed, new)]
    assert packed[0] == packed[1]


@pytest.mark.parametrize("fun", programs.SMOOTH)
def test_identity_keeps_gradients(fun):
    new = jaxpr.as_fun(jaxpr.rewrite(trace(fun), again))
    expected = jax.jit(jax.grad(lambda x: jnp.sum(fun(x) ** 2)))(X)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: jnp.sum(new(x)[0] ** 2)))(X), expected, rtol=1e-6)


def sin_to_cos(path, eqn):
    return (lambda x: [jnp.cos(x)]) if jaxpr.primitive_name(eqn) == "sin" else None


@pytest.mark.parametrize("fun", programs.ALL)
def test_replaces_at_any_depth(fun):
    closed = trace(fun)
    new = jaxpr.rewrite(closed, sin_to_cos)
    check_jaxpr(new.jaxpr)
    names = [[jaxpr.primitive_name(eqn) for _, eqn in jaxpr.walk(c)] for c in (closed, new)]
    assert [n.replace("sin", "cos") for n in names[0]] == names[1]


def test_replacement_changes_the_values():
    new = jaxpr.rewrite(trace(programs.scan), sin_to_cos)
    carry, ys = jax.lax.scan(lambda c, row: (jnp.cos(c) * row, c @ row), X, X)
    np.testing.assert_allclose(jaxpr.as_fun(new)(X)[0], carry + ys, rtol=1e-6)


def test_nothing_replaced_is_the_same_object():
    closed = trace(programs.nested)
    assert jaxpr.rewrite(closed, lambda path, eqn: None) is closed


def test_dropped_results_stay_dropped():
    body = trace(lambda x: (jnp.sin(x), jnp.cos(x))[1]).jaxpr
    first, second = body.eqns
    body = jaxpr.with_eqns(body, [first.replace(outvars=[DropVar(first.outvars[0].aval)]), second])
    dropping = ClosedJaxpr(body, [])
    new = jaxpr.rewrite(trace(jnp.tanh), lambda path, eqn: dropping)
    check_jaxpr(new.jaxpr)
    assert isinstance(new.eqns[0].outvars[0], DropVar)
    check_jaxpr(jaxpr.rewrite(dropping, again).jaxpr)


def test_shared_bodies_stay_shared_elsewhere():
    closed = trace(programs.jit)
    new = jaxpr.rewrite(closed, lambda path, eqn: sin_to_cos(path, eqn) if len(path) == 1 else None)
    bodies = [eqn.params["jaxpr"] for eqn in new.eqns if jaxpr.primitive_name(eqn) == "jit"]
    assert len(bodies) == 2 and bodies[0] is bodies[1]


def test_outer_replacement_sees_the_rewritten_body():
    def replace(path, eqn):
        if jaxpr.primitive_name(eqn) == "scan":
            return lambda *xs: [2.0 * y for y in jaxpr.bind(eqn, *xs)]
        return sin_to_cos(path, eqn)

    new = jaxpr.rewrite(trace(programs.scan), replace)
    check_jaxpr(new.jaxpr)
    carry, ys = jax.lax.scan(lambda c, row: (jnp.cos(c) * row, c @ row), X, X)
    np.testing.assert_allclose(jaxpr.as_fun(new)(X)[0], 2 * carry + 2 * ys, rtol=1e-6)


def test_a_replacement_may_be_a_program_and_spliced_twice():
    double = jax.make_jaxpr(lambda x: jnp.tanh(x) * 2.0)(X)
    new = jaxpr.rewrite(trace(lambda x: jnp.sin(jnp.sin(x))), lambda path, eqn: double)
    check_jaxpr(new.jaxpr)
    np.testing.assert_allclose(jaxpr.as_fun(new)(X)[0], jnp.tanh(jnp.tanh(X) * 2) * 2, rtol=1e-6)


def test_a_replacement_may_return_an_operand_or_a_constant():
    table = np.asarray(X) + 1
    swap = {"sin": lambda x: [x], "cos": lambda x: [jnp.asarray(table)]}
    new = jaxpr.rewrite(trace(lambda x: (jnp.sin(x), jnp.cos(x))), lambda path, eqn: swap[jaxpr.primitive_name(eqn)])
    check_jaxpr(new.jaxpr)
    for run in (jaxpr.as_fun(new), jax.jit(jaxpr.as_fun(new))):
        np.testing.assert_array_equal(run(X)[0], X)
        np.testing.assert_array_equal(run(X)[1], table)


@pytest.mark.parametrize("fun", [programs.jit, programs.scan, programs.remat, programs.custom_vjp, programs.cond])
def test_a_replacement_may_hold_an_array(fun):
    table = np.asarray(X) + 1

    def replace(path, eqn):
        return sin_to_cos(path, eqn) and (lambda x: [jnp.cos(x) * table])

    new = jaxpr.rewrite(trace(fun), replace)
    check_jaxpr(new.jaxpr)
    run = jaxpr.as_fun(new)
    assert np.isfinite(jax.jit(jax.grad(lambda x: jnp.sum(run(x)[0])))(X)).all()


@pytest.mark.parametrize("fun, slope", [(programs.custom_jvp, 5.0), (programs.custom_vjp, 7.0)])
def test_user_derivative_rules_outlive_a_rewritten_body(fun, slope):
    def replace(path, eqn):
        return (lambda x: [x * 0]) if jaxpr.primitive_name(eqn) in ("sin", "cos") else None

    run = jaxpr.as_fun(jaxpr.rewrite(trace(fun), replace))
    np.testing.assert_array_equal(run(X)[0], np.ones((8, 8)))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(run(x)[0]))(X), np.full((8, 8), slope))


@pytest.mark.parametrize("fun", programs.ALL)
def test_enter_and_leave_reach_every_body(fun):
    seen = {"enter": [], "leave": []}

    def border(name):
        return lambda path, types: (
            seen[name].append(path) or (lambda *xs: [x * 1 if x.dtype == jnp.float32 else x for x in xs])
        )

    closed = trace(fun)
    new = jaxpr.rewrite(closed, lambda path, eqn: None, border("enter"), border("leave"))
    check_jaxpr(new.jaxpr)
    bodies = {()} | {(*path, key) for path, eqn in jaxpr.walk(closed) for key, _ in jaxpr.subjaxprs(eqn)}
    assert set(seen["enter"]) == set(seen["leave"]) == bodies
    np.testing.assert_allclose(jaxpr.as_fun(new)(X)[0], fun(X), rtol=1e-6)


def test_enter_and_leave_change_values():
    def add(n):
        return lambda path, types: (lambda x: [x + n]) if path == () else None

    new = jaxpr.rewrite(trace(lambda x: x * 2.0), lambda path, eqn: None, add(1.0), add(10.0))
    np.testing.assert_allclose(jaxpr.as_fun(new)(X)[0], (X + 1) * 2 + 10, rtol=1e-6)


def test_collectives_and_effects_inside_shard_map():
    def replace(path, eqn):
        if jaxpr.primitive_name(eqn) == "sin":
            return lambda x: [x + jax.lax.pmax(x, "x") * jax.lax.axis_index("x")]
        return None

    new = jaxpr.rewrite(trace(programs.shard_map), replace)
    check_jaxpr(new.jaxpr)
    assert jax.jit(jaxpr.as_fun(new))(X)[0].shape == (8, 8)


def test_new_effects_reach_the_outside():
    def replace(path, eqn):
        if jaxpr.primitive_name(eqn) == "sin":
            return lambda x: [jax.debug.callback(lambda v: None, x[0, 0]) or jnp.sin(x)]
        return None

    new = jaxpr.rewrite(trace(lambda x: jax.lax.scan(lambda c, r: (jnp.sin(c), r), x, x)), replace)
    check_jaxpr(new.jaxpr)
    assert new.effects


def test_mutable_arrays_survive():
    def fun(x):
        box = jax.new_ref(x)
        box[...] = jnp.sin(box[...])
        jax.lax.fori_loop(0, 2, lambda i, _: box.__setitem__(..., jnp.sin(box[...])), None)
        return box[...]

    new = jaxpr.rewrite(trace(fun), sin_to_cos)
    check_jaxpr(new.jaxpr)
    np.testing.assert_allclose(jax.jit(jaxpr.as_fun(new))(X)[0], jnp.cos(jnp.cos(jnp.cos(X))), rtol=1e-6)


@pytest.mark.parametrize("fun", [programs.flat, programs.scan, programs.remat, programs.custom_vjp, programs.shard_map])
def test_source_lines_survive(fun):
    closed = trace(fun)
    new = jaxpr.rewrite(closed, again)
    lines = [[jaxpr.source(eqn) for _, eqn in jaxpr.walk(c)] for c in (closed, new)]
    assert lines[0] == lines[1]
    assert all("programs.py" in line for line in lines[0])


def test_compiled_metadata_leads_to_the_user():
    def fun(x):
        with jax.named_scope("attention"):
            return jax.lax.scan(lambda c, row: (jnp.sin(c) * row, None), x, x)[0]

    def replace(path, eqn):
        if jaxpr.primitive_name(eqn) != "sin":
            return None
        with_scope = jax.named_scope("meshplan")(lambda x: [jnp.exp(x)])
        return with_scope

    closed = trace(fun)
    (line,) = {jaxpr.source(eqn) for _, eqn in jaxpr.walk(closed) if jaxpr.primitive_name(eqn) == "sin"}
    lowered = jax.jit(jaxpr.as_fun(jaxpr.rewrite(closed, replace))).lower(X)
    text = lowered.as_text(debug_info=True)
    assert "meshplan/exp" in text
    assert f'test_jaxpr.py":{line.split(":")[1].split(" ")[0]}' in text
    hlo = lowered.compile().as_text() or ""
    assert "attention" in hlo and "meshplan/exp" in hlo and "test_jaxpr.py" in hlo


def test_source_names_file_line_and_function():
    eqn = trace(programs.flat).eqns[0]
    assert jaxpr.source(eqn).endswith("(flat)") and "programs.py:" in jaxpr.source(eqn)


def test_wrong_results_are_refused_with_path_and_source():
    with pytest.raises(ValueError, match=r"at 0, sin from .*test_jaxpr.py.*instead of"):
        jaxpr.rewrite(trace(lambda x: jnp.sin(x)), lambda path, eqn: lambda x: [x[0]])


def test_traced_values_are_refused():
    def outer(y):
        return jaxpr.rewrite(trace(jnp.sin), lambda path, eqn: lambda x: [x + y]).eqns and y

    with pytest.raises(ValueError, match="holds on to a traced value"):
        jax.jit(outer)(X)


def test_enclosing_equations():
    closed = trace(programs.nested)
    path = jaxpr.parse("0/jaxpr/0/jaxpr/1/call_jaxpr/0")
    assert [jaxpr.primitive_name(e) for e in jaxpr.enclosing(closed, path)] == ["scan", "remat2", "custom_vjp_call"]
