import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType
from programs import mesh

from planner import api, testing
from planner.random_programs import MOVES, RandomProgram, Step

CUBE = mesh(2, 2, 2)
X, W = (np.random.default_rng(i).normal(size=(8, 8)).astype(np.float32) for i in range(2))
NONE = settings(max_examples=200, database=None)


@settings(max_examples=30)
@given(testing.programs(4), testing.meshes(), st.sampled_from((testing.EAGER, testing.EAGER, "tpu-v4")))
def test_planned_programs_give_what_plain_ones_give(program, mesh, machine):
    testing.assert_equivalent(program, *program.args, mesh=mesh, machine=machine, grad=True)


@settings(max_examples=25)
@given(testing.programs(6))
def test_programs_run_and_stay_calm(program):
    results = program(*program.args)
    assert results
    assert all(np.max(np.abs(x)) < 1e4 and np.isfinite(x).all() for x in results.values())
    assert any(16 in x.shape or 8 in x.shape for x in program.args)
    assert 1 <= sum(isinstance(place, Step) for place in program.places) <= 6


@pytest.mark.parametrize(
    "move", ["scan", "stacked scan", "checkpoint", "cond", "take", "einsum", "softmax", "slice", "while"]
)
def test_every_kind_of_step_is_drawn(move):
    program = find(testing.programs(4), partial(has, move), settings=NONE)
    assert move in repr(program)


def has(move: str, program: RandomProgram) -> bool:
    return any(isinstance(p, Step) and p.text.split("[")[0] == move for p in program.places)


def test_every_move_has_been_named():
    assert len({move.__name__ for move in MOVES}) == len(MOVES) == 28


def test_a_program_prints_as_lines():
    program = RandomProgram((X,), (0, Step("softmax[axis=0]", (0,), jax.nn.softmax)), (1,))
    assert repr(program) == "program\n  v0 = argument float32[8, 8]\n  v1 = softmax[axis=0](v0)\n  return v1"


@given(testing.meshes(4))
def test_meshes_are_small(drawn):
    assert 2 <= drawn.size <= 4
    assert 1 <= len(drawn.axis_names) <= 2
    assert set(drawn.devices.flat) <= set(jax.devices())


def test_meshes_come_in_every_shape():
    for shape in [(8,), (2, 4), (4, 2), (2, 2, 2)]:
        assert find(testing.meshes(), lambda m, s=shape: m.devices.shape == s, settings=NONE)
    assert find(testing.meshes(), lambda m: AxisType.Explicit in m.axis_types, settings=NONE)


def test_eager_splits_what_a_real_machine_leaves_whole():
    def spread(machine):
        plan = api.autoshard(lambda x, w: x @ w, mesh=CUBE, machine=machine).plan(X, W)
        return sum(len(axes) for value in plan.arguments for axes in value.spec)

    assert spread(testing.EAGER) > spread("tpu-v4")


class Wrong:
    """A planned function that is off where the plain one is not."""

    def __init__(self, fun, off):
        self.fun, self.off = fun, off

    def __call__(self, *args):
        return self.off(self.fun(*args))


def spoil(monkeypatch, off):
    monkeypatch.setattr(testing, "autoshard", lambda fun, **_: Wrong(jax.jit(fun), off))


def test_a_wrong_leaf_is_named(monkeypatch):
    spoil(monkeypatch, lambda out: {**out, "b": out["b"] + 1e-3})
    with pytest.raises(AssertionError, match=r"both on mesh \{'x': 2, 'y': 2, 'z': 2\}: result\['b'\]") as caught:
        testing.assert_equivalent(both, X, W, mesh=CUBE)
    assert "planned (ACTUAL)" in str(caught.value)


def both(x, w):
    return {"a": x @ w, "b": jnp.sin(x) / 2}


def test_tolerances_given_are_obeyed(monkeypatch):
    spoil(monkeypatch, lambda out: {**out, "b": out["b"] + 1e-3})
    testing.assert_equivalent(both, X, W, mesh=CUBE, atol=2e-3)
    with pytest.raises(AssertionError):
        testing.assert_equivalent(both, X, W, mesh=CUBE, atol=0, rtol=1e-4)


@pytest.mark.parametrize(
    ("off", "message"),
    [
        (lambda out: out[None], r"plain is float32\[8, 8\], planned float32\[1, 8, 8\]"),
        (lambda out: out.astype(jnp.bfloat16), "planned bfloat16"),
        (lambda out: (out, out), "planned PyTreeDef"),
        (lambda out: out.at[0, 0].set(jnp.nan), "differs"),
    ],
)
def test_shapes_types_structures_and_nans_count(monkeypatch, off, message):
    spoil(monkeypatch, off)
    with pytest.raises(AssertionError, match=message):
        testing.assert_equivalent(lambda x, w: x @ w, X, W, mesh=CUBE)


def test_integers_must_be_equal(monkeypatch):
    spoil(monkeypatch, lambda out: out.at[3].add(1))
    with pytest.raises(AssertionError, match="result"):
        testing.assert_equivalent(lambda x: jnp.argmax(x, -1) + 1000_000, X, mesh=CUBE)


def test_a_wrong_gradient_is_named(monkeypatch):
    def planned(fun, **_):
        return Wrong(jax.jit(fun), lambda out: out if isinstance(out, jax.Array) else (out[0], [out[1][0] * 1.01]))

    monkeypatch.setattr(testing, "autoshard", planned)
    with pytest.raises(AssertionError, match=r"gradient of argument\[1\]\[0\]"):
        testing.assert_equivalent(lambda x, w: x @ w, X, W, mesh=CUBE, grad=True)


def test_gradients_skip_integers_and_statics():
    def fun(tree, rows, power):
        return {"y": (tree["x"] ** power)[rows] @ tree["w"], "rows": rows + 1}

    args = ({"x": X, "w": W}, np.arange(4), 2)
    slopes = testing.gradient(fun)(*args)
    assert [len(s) for s in slopes] == [2, 0, 0]
    testing.assert_equivalent(
        fun, *args, mesh=CUBE, machine=testing.EAGER, grad=True, static_argnames="power", in_shardings=None
    )


def test_donated_arguments_stay_alive():
    x = jax.device_put(X, jax.sharding.NamedSharding(CUBE, jax.P()))
    options = {"donate_argnums": 0, "out_shardings": jax.P("x")}
    testing.assert_equivalent(lambda x: x + 1, x, mesh=CUBE, grad=True, **options)
    assert not x.is_deleted()


def test_tolerance_is_that_of_the_coarsest_dtype():
    assert testing.tolerance((X, X.astype(jnp.bfloat16))) == pytest.approx(0.04, rel=0.1)
    assert testing.tolerance({"x": X}) == pytest.approx(2.4e-5, rel=0.1)
    assert testing.tolerance((np.arange(3),)) == 0


def test_without_hypothesis_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis.strategies", None)
    with pytest.raises(ImportError, match=r"meshplan\[test\]"):
        testing.programs()
