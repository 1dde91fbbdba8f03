from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from equations import CALLS, MESH, Equation, check, equations, primitives
from jax import lax
from jax.sharding import PartitionSpec
from samples import SAMPLES, Sample, conv, floats, ints

from planner.rules import Rule, registered, rule_for
from planner.rules.local import combines, local_params, on_shards, shard_shape, spec_of
from planner.rules.registry import register
from planner.rules.rule import same_params

Axes = tuple[str, ...]
RuleOf = Callable[[Equation], Rule]
TESTED: dict[str, None] = {}
"""Equations that an earlier sample of this process held: many samples share them."""


def assignments(rule: Rule) -> Iterator[dict[int, Axes]]:
    """Every factor over either axis, one over both, and every two neighbouring factors over one axis each."""
    factors = [f for f in rule.splittable() if f not in rule.positional]
    singles = [{f: (axis,)} for axis in MESH.shape for f in factors]
    both = [{f: ("y", "x")} for f in factors if rule.sizes[f] % 8 == 0][:1]
    pairs = [{f: ("x",), g: ("y",)} for f, g in pairwise(factors)]
    for assignment in singles + both + pairs:
        if all(rule.sizes[f] % prod(MESH.shape[a] for a in axes) == 0 for f, axes in assignment.items()):
            yield assignment


def claims(equation: Equation, rule: Rule) -> Iterator[tuple[str, Any]]:
    """What the rule says the results are, computed for every assignment and every linear group."""
    for assignment in assignments(rule):
        fun = on_shards(equation.bind, rule, equation.params, assignment, MESH)
        yield f"split {assignment}", list(fun(*equation.operands))
    for group in rule.linear:
        values = [*equation.results, *(equation.operands[i] for i in group)]
        if all(jnp.issubdtype(x.dtype, jnp.inexact) for x in values):
            yield f"linear in {group}", summands(equation, group)


def summands(equation: Equation, group: tuple[int, ...]) -> Any:
    """The sum of the results of two summands of the operands of `group`."""
    parts = [[x, x] for x in equation.operands]
    for i in group:
        x = jnp.asarray(equation.operands[i])
        part = jnp.linspace(-1, 2, x.size).reshape(x.shape).astype(x.dtype)
        parts[i] = [part, x - part]
    first, second = (jax.tree.leaves(equation.bind(*p, **equation.params)) for p in zip(*parts))
    return [a + b for a, b in zip(first, second)]


CRASHES = ("associative scan", "concatenate empty", "scan of pairs")


def test_samples_are_many_and_named_once() -> None:
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES) >= 100


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_shard_computes_its_shard(sample: Sample) -> None:
    if sample.name in CRASHES and jax.__version_info__ >= (0, 11):
        pytest.skip("jaxlib 0.11.2 crashes on CPU where an operand of a concatenate is empty")

    def distinct(*args: Any) -> list[Equation]:
        for e in (found := equations(sample.fun, *args)):
            fits(e.rule(), [x.shape for x in e.operands], [x.shape for x in e.results])
        new = {e.identity(): e for e in found if e.identity() not in TESTED}
        TESTED.update(dict.fromkeys(new))
        return list(new.values())

    check(distinct, lambda e: claims(e, e.rule()), *sample.args)


def planted(rule_of: RuleOf, fun: Callable[..., Any], *args: Any) -> None:
    check(lambda *a: equations(fun, *a)[-1:], lambda e: claims(e, rule_of(e)), *args)


def lying(**wrong: Any) -> RuleOf:
    return lambda equation: replace(equation.rule(), **wrong)


LIES = {
    "a scanned dim may be split": (lying(whole=frozenset()), lambda x: jnp.cumsum(x, 0), floats(8, 8)),
    "a sum combines by its maximum": (lying(reduced={0: "max"}), lambda x: jnp.sum(x, 0), floats(8, 8)),
    "partial sums need nothing": (lying(reduced={}), lambda x: x @ x, floats(8, 8)),
    "tanh is linear": (lying(linear=((0,),)), jnp.tanh, floats(8, 8)),
    "add is linear in one side": (lying(linear=((0,),)), lambda x: x + x, floats(8, 8)),
    "a transpose keeps dims": (lying(results=(((0,), (1,)),)), jnp.transpose, floats(8, 8)),
    "an iota needs no position": (lying(positional=frozenset()), lambda x: jnp.arange(8), floats()),
    "a lookup needs no position": (lying(positional=frozenset()), lambda t: t[ints(16, 4)], floats(16, 8)),
    "a slice knows its shard": (lying(localise=same_params), lambda x: x[:, :4], floats(8, 8)),
    "groups stay as many": (
        lying(localise=same_params),
        conv(feature_group_count=4),
        floats(1, 4, 4, 4),
        floats(3, 3, 1, 4),
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_rule_that_lies_is_caught(lie: Any) -> None:
    rule_of, fun, *args = lie
    planted(Equation.rule, fun, *args)
    with pytest.raises((AssertionError, TypeError, ValueError)):
        planted(rule_of, fun, *args)


def attention(x: Any, w: Mapping[str, Any]) -> Any:
    q, k, v = (jnp.einsum("bsd,dhk->bshk", x, w[name]) for name in "qkv")
    scores = jnp.einsum("bqhk,bshk->bhqs", q, k) / 2
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    return jnp.einsum("bhqs,bshk,hkd->bqd", jax.nn.softmax(jnp.where(mask, scores, -1e9)), v, w["o"])


def loss(w: Mapping[str, Any], tokens: Any) -> Any:
    x = w["table"][tokens]
    x = x + attention(x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6), w)
    x = x + jax.nn.gelu(x @ w["up"]) @ w["down"]
    targets = jnp.roll(tokens, -1, 1)[..., None]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ w["table"].T), targets, -1))


def train_step(w: Any, state: Any, tokens: Any) -> Any:
    updates, state = OPTIMIZER.update(jax.grad(loss)(w, tokens), state, w)
    return optax.apply_updates(w, updates), state


OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
WEIGHTS = {
    **{name: floats(8, 2, 4, seed=i) for i, name in enumerate("qkv")},
    **{"o": floats(2, 4, 8), "up": floats(8, 32), "down": floats(32, 8), "table": floats(16, 8)},
}


def test_every_equation_of_a_train_step_has_a_rule_that_fits() -> None:
    args = WEIGHTS, OPTIMIZER.init(WEIGHTS), ints(16, 4, 8)
    found = [eqn for eqn in primitives(jax.make_jaxpr(train_step)(*args).jaxpr) if eqn.primitive.name not in CALLS]
    assert len(found) > 300
    for eqn in found:
        shapes = [v.aval.shape for v in eqn.invars], [v.aval.shape for v in eqn.outvars]
        rule = rule_for(eqn.primitive.name, *shapes, eqn.params)
        assert rule is not None, eqn
        fits(rule, *shapes)


def fits(rule: Rule, in_shapes: list[Any], out_shapes: list[Any]) -> None:
    arrays = [*zip(rule.operands, in_shapes, strict=True), *zip(rule.results, out_shapes, strict=True)]
    for dims, shape in arrays:
        assert shard_shape(dims, rule.sizes, {}) == shape
        assert all(len(set(dim)) == len(dim) for dim in dims)
    shown = {f for dims in rule.results for dim in dims for f in dim}
    for f in range(len(rule.sizes)):
        assert f in shown or f in rule.reduced or f in rule.whole or f not in rule.splittable(), rule
    assert not shown & set(rule.reduced)
    assert len(rule.touched) in (0, len(arrays)) and all(0 <= t <= 1 for t in rule.touched)
    assert all(0 <= i < len(in_shapes) for group in rule.linear for i in group)
    assert rule.flops >= 0


FLOPS = {
    "matmul": (lambda: jnp.ones((8, 16)) @ jnp.ones((16, 4)), "dot_general", 2 * 8 * 16 * 4),
    "sum": (lambda: jnp.ones((8, 16)).sum(0), "reduce_sum", 8 * 16),
    "conv": (
        lambda: conv()(jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 8))),
        "conv_general_dilated",
        2 * 2 * 64 * 9 * 32,
    ),
    "patches": (
        lambda: conv(2, "VALID")(jnp.ones((2, 8, 8, 4)), jnp.ones((2, 2, 4, 8))),
        "conv_general_dilated",
        2 * 2 * 16 * 4 * 32,
    ),
    "groups": (
        lambda: conv(feature_group_count=4)(jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 1, 8))),
        "conv_general_dilated",
        2 * 2 * 64 * 9 * 8,
    ),
    "pointwise groups": (
        lambda: conv(feature_group_count=4)(jnp.ones((2, 8, 8, 4)), jnp.ones((1, 1, 1, 8))),
        "conv_general_dilated",
        2 * 2 * 64 * 8,
    ),
    "cholesky": (lambda: jax.lax.linalg.cholesky(jnp.eye(6)[None]), "cholesky", 72),
    "update": (lambda: jnp.ones((16, 8)).at[jnp.arange(4)].add(1.0), "scatter-add", 32),
    "sort": (lambda: jnp.sort(jnp.ones((2, 8))), "sort", 48),
    "fft": (lambda: jnp.fft.fft(jnp.ones((2, 8), complex)), "fft", 240),
}


@pytest.mark.parametrize("fun, name, flops", FLOPS.values(), ids=FLOPS)
def test_flops(fun: Any, name: str, flops: float) -> None:
    (rule,) = (e.rule() for e in equations(fun) if e.name == name)
    assert rule.flops * prod(rule.sizes) == pytest.approx(flops)


def rule_of(fun: Callable[..., Any], *args: Any) -> Rule:
    return equations(fun, *args)[-1].rule()


def test_factors_of_a_matmul() -> None:
    rule = rule_of(jnp.matmul, floats(4, 8, 16), floats(4, 16, 8))
    assert rule.operands == (((0,), (1,), (2,)), ((0,), (2,), (3,)))
    assert rule.results == (((0,), (1,), (3,)),)
    assert rule.sizes == (4, 8, 16, 8)
    assert rule.reduced == {2: "sum"} and not rule.fusible


PRECISIONS: dict[Any, str] = {
    None: "default",
    "default": "default",
    "BF16_BF16_F32": "default",
    "high": "high",
    ("high", "default"): "high",
    "BF16_BF16_F32_X3": "high",
    ("high", "highest"): "highest",
    "BF16_BF16_F32_X6": "highest",
    "F32_F32_F32": "highest",
}


@pytest.mark.parametrize(("asked", "precision"), PRECISIONS.items(), ids=map(str, PRECISIONS))
def test_the_precision_that_is_asked_for(asked: Any, precision: str) -> None:
    a, dot = floats(8, 8), partial(lax.dot, precision=asked)
    assert rule_of(dot, a, a).precision == precision


def test_only_the_major_part_of_a_merged_dim_is_split() -> None:
    rule = rule_of(lambda x: x.reshape(32, 8), floats(4, 8, 8))
    assert rule.results[0] == ((0, 1), (2,)) and rule.splittable() == (0, 2)


def test_groups_of_a_pointwise_convolution_are_whole() -> None:
    """jaxlib 0.10.2 on CPU gives wrong results where it splits them; wider windows are right."""
    wide, point = (conv(feature_group_count=4), floats(4, 4, 4, 16), floats(3, 3, 4, 8)), floats(1, 1, 4, 8)
    assert len(rule_of(*wide).splittable()) == 2
    assert len(rule_of(*wide[:2], point).splittable()) == 3  # the batch, and two dims that windows of one tile


def test_an_update_in_place_touches_only_the_update() -> None:
    rule = rule_of(lambda x, u, i: jax.lax.dynamic_update_slice(x, u, (i, 0)), floats(8, 4), floats(2, 4), np.int32(1))
    assert rule.touched == (0.25, 1, 1, 1, 0.25)


def test_a_split_cache_is_positional_along_the_sequence_only() -> None:
    rule = rule_of(lambda x, u, i: jax.lax.dynamic_update_slice(x, u, (0, i)), floats(8, 16), floats(8, 1), np.int32(1))
    assert rule.splittable() == (0, 1) and rule.positional == {1}


def test_a_gradient_of_an_embedding_is_partial_over_tokens() -> None:
    rule = rule_of(jax.grad(lambda t, i: t[i].sum()), floats(16, 8), ints(16, 4))
    assert set(rule.reduced.values()) == {"sum"} and rule.sizes == (16, 8, 4)


@pytest.mark.parametrize("name", ["sharding_constraint", "device_put"])
def test_a_primitive_of_shardings_is_an_identity(name: str) -> None:
    rule = rule_for(name, [(8, 1, 4)], [(8, 1, 4)], {"sharding": None})
    assert rule is not None and rule.operands == rule.results == (((0,), (), (1,)),)
    assert rule.splittable() == (0, 1) and rule.linear == ((0,),)


def test_an_unknown_primitive_has_no_rule() -> None:
    assert rule_for("no such primitive", [(8,)], [(8,)], {}) is None


def test_a_rule_is_registered_once() -> None:
    with pytest.raises(ValueError, match="add"):
        register("add")(lambda in_shapes, out_shapes: Rule((), (), ()))
    assert list(registered()) == sorted(set(registered()))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        rule_for("add", [(8,), (4,)], [(8,)], {})


def test_the_local_computation() -> None:
    rule = rule_of(jnp.matmul, floats(8, 16), floats(16, 4))
    assignment = {0: ("y", "x"), 1: ("x",)}
    assert spec_of(rule.operands[0], assignment) == PartitionSpec(("y", "x"), "x")
    assert spec_of(rule.results[0], {1: ("x",)}) == PartitionSpec()
    assert shard_shape(rule.operands[0], rule.sizes, {0: 8, 1: 2}) == (1, 8)
    assert combines(rule, assignment) == (("sum", ("x",)),)
    spread = rule_for("broadcast_in_dim", [()], [(8, 4)], {"shape": (8, 4), "broadcast_dimensions": ()})
    assert spread is not None and local_params(spread, {"shape": (8, 4)}, {0: 4})["shape"] == (2, 4)


def test_impossible_splits_are_refused() -> None:
    rule = rule_of(lambda x: jnp.cumsum(x, 0), floats(8, 16))
    with pytest.raises(ValueError, match="cannot be split"):
        on_shards(lambda x: x, rule, {}, {0: ("x",)}, MESH)
    with pytest.raises(ValueError, match="3 ways"):
        shard_shape(rule.operands[0], rule.sizes, {0: 3})
