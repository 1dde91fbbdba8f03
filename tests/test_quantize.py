import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import abstract_mesh, apart, array
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P
from programs import mesh

from benchmarks.models import FAMILIES, materialise, palm
from passes.quantize import Quantized, dequantized, quantize, quantize_arguments, quantize_weights, quantized
from passes.weights import quantizable
from planner import autoshard, explain, make_plan, testing

EVERY = pytest.mark.parametrize("family", FAMILIES)
QUICK = {"xla_backend_optimization_level": 0}
SCAN = pytest.mark.parametrize("scan", [True, False])


def draw(*shape, seed=0, dtype=jnp.float32):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float32).astype(dtype)


def run(fun, args):
    return jax.jit(fun, compiler_options=QUICK)(*args)


def found(fun, *args):
    """The quantizable arguments by name."""
    closed = jax.make_jaxpr(fun)(*args)
    return {closed.jaxpr.debug_info.arg_names[i]: dims for i, dims in quantizable(closed).items()}


def exact(q):
    return np.asarray(q.values, np.float32) * np.asarray(q.scales)


def off(left, right):
    """Relative error in the Frobenius norm."""
    return np.linalg.norm(np.asarray(left, np.float32) - np.asarray(right, np.float32)) / np.linalg.norm(right)


def multiplied_out(x):
    return jnp.asarray(exact(x), x.dtype) if isinstance(x, Quantized) else x


def check(fun, *args, which=None, tolerance=1e-5):
    """The quantized function is the function of the weights that int8 values and scales stand for."""
    some = quantize_arguments(fun, *args, which=which)
    plain = jax.tree.map(multiplied_out, some, is_leaf=lambda x: isinstance(x, Quantized))
    assert any(x.dtype == jnp.int8 for x in jax.tree.leaves(some))
    left, right = run(quantized(fun), some), run(fun, plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), left, right)


# Values and scales


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([((3, 5), (0,)), ((3, 5), (1,)), ((2, 3, 4), (0, 1)), ((2, 3, 4), (1,))]),
    st.sampled_from(["float32", "bfloat16"]),
    st.floats(-37, 4),
    st.integers(0, 99),
)
def test_no_value_is_off_by_more_than_half_a_scale(form, dtype, magnitude, seed):
    shape, dims = form
    w = jnp.asarray(10.0**magnitude * np.random.default_rng(seed).normal(size=shape), dtype)
    q = quantize_weights(w, dims)
    assert (q.values.dtype, q.scales.dtype, q.dtype) == (jnp.int8, jnp.float32, w.dtype)
    assert q.scales.shape == tuple(1 if d in dims else n for d, n in enumerate(shape))
    assert np.all(np.abs(np.asarray(w, np.float32) - exact(q)) <= np.asarray(q.scales) * (0.5 + 2.0**-17))
    assert np.min(q.values) >= -127


def test_the_largest_of_a_channel_is_127_scales():
    q = quantize_weights(jnp.array([[1.0, -8.0], [-2.0, 4.0]]), (0,))
    np.testing.assert_array_equal(q.values, [[64, -127], [-127, 64]])
    np.testing.assert_allclose(q.scales, [[2 / 127, 8 / 127]], rtol=1e-6)


def test_a_channel_of_zeros_has_scale_one():
    q = quantize_weights(jnp.zeros((3, 2)), (0,))
    assert not np.any(q.values) and np.all(np.asarray(q.scales) == 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad):
    q = quantize_weights(jnp.array([[bad, 1.0], [1.0, 1.0]]), (0,))
    channels = jnp.ones((2, 2)) @ (q.values * q.scales)
    assert np.all(np.isnan(channels[:, 0])) and np.allclose(channels[:, 1], 2)


def test_shapes_quantize_to_shapes():
    q = quantize_weights(array(4, 6, dtype=jnp.bfloat16), (0,))
    assert (q.values.shape, q.scales.shape, q.dtype) == ((4, 6), (1, 6), jnp.bfloat16)
    assert isinstance(q.values, jax.ShapeDtypeStruct)


# What is a weight


def test_of_two_arguments_the_second_is_the_weight():
    assert found(lambda x, w: x @ w, array(8, 4), array(4, 6)) == {"w": (0,)}


def test_weights_found_in_the_models():
    fun, args = palm.decode("tiny", 8, 16)
    layer = dict.fromkeys(("wq", "wk", "wv", "up", "gate", "down"), (1,)) | {"wo": (1, 2)}
    assert found(fun, *args) == {f"params['layers']['{name}']": dims for name, dims in layer.items()}


def test_what_else_reads_an_argument_disqualifies_it():
    x, w = array(8, 4), array(4, 4)
    assert not found(lambda w, x: (jnp.tanh(x) @ w, w[0]), w, x)
    assert not found(lambda w, x: jnp.tanh(x) @ w @ w.T, w, x)  # contracted over either dim
    assert not found(lambda w, x: (jnp.tanh(x) @ w, w), w, x)
    assert not found(lambda cache, x: jnp.einsum("bd,btd->bt", jnp.tanh(x), cache), array(8, 5, 4), x)
    assert found(lambda w, x: jnp.tanh(jnp.tanh(x) @ w) @ w, w, x) == {"w": (0,)}


def test_an_optimiser_reads_weights():
    fun, args = palm.train("tiny", 8, 16)
    assert not found(fun, *args)


# Forms of programs


@pytest.mark.parametrize(
    ("spec", "w"),
    [
        ("be,ehd->bhd", (4, 3, 5)),
        ("bhd,hde->be", (3, 5, 4)),
        ("ble,ef->blf", (4, 6)),
        ("be,ve->bv", (6, 4)),
        ("fe,be->fb", (6, 4)),
        ("bec,ecf->ebf", (4, 3, 6)),
    ],
)
def test_contractions(spec, w):
    left, right = spec.split("->")[0].split(",")
    sizes = dict(zip(right, w)) | {"b": 3 if spec[0] == "f" else 2, "l": 5}
    sizes |= dict(zip(left, w)) if spec[0] == "f" else {}
    a, b = (draw(*(sizes[c] for c in letters), seed=1) for letters in (left, right))
    check(lambda a, b: jnp.einsum(spec, a, b), a, b, which=(0,) if spec[0] == "f" else (1,))


def test_both_operands_may_be_int8():
    check(lambda a, b: a @ b, draw(8, 4), draw(4, 6, seed=1), which=(0, 1))


def test_batch_dims_have_scales_of_their_own():
    check(lambda x, w: jnp.einsum("bec,ecf->ebf", x, w), draw(2, 3, 4), draw(3, 4, 5, seed=1), which=(1,))


W, X = draw(3, 4, 4), draw(8, 4, seed=1)


def steps(wrap):
    def fun(w, x):
        return lax.scan(lambda c, w: (jnp.tanh(wrap(lambda c, w: c @ w)(c, w)), c[0]), x, w)

    return fun


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint], ids=["scan", "jit", "remat"])
def test_inside_of_loops_and_calls(wrap):
    assert found(steps(wrap), W, X) == {"w": (1,)}
    check(steps(wrap), W, X)


def test_closed_over_by_loops_and_branches():
    def fun(w, x):
        y = lax.fori_loop(0, 3, lambda i, c: jnp.tanh(c @ w[i]), x)
        y = lax.while_loop(lambda c: jnp.sum(c @ w[0]) > 1e3, lambda c: c @ w[1], y)
        y, _ = lax.scan(lambda c, _: (c @ w[2], None), y, None, length=2)
        return lax.cond(y[0, 0] > 0, lambda c: c @ w[0], lambda c: c - 1.0, y)

    assert found(fun, W, X) == {"w": (1,)}
    check(fun, W, X)


def test_what_moves_elements():
    def fun(w, v, x):
        y = x @ w.reshape(4, 6, 2).transpose(1, 0, 2)[2]
        return y + x @ lax.slice(v, (0, 2), (4, 4)), x @ v.reshape(2, 2, 6).reshape(4, 6)

    args = draw(4, 12), draw(4, 6, seed=2), X
    assert found(fun, *args) == {"w": (0,), "v": (0,)}
    check(fun, *args)


def test_weights_in_another_dtype_than_the_activations():
    args = draw(4, 6, dtype=jnp.bfloat16), X
    assert found(lambda w, x: x @ w.astype(x.dtype), *args) == {"w": (0,)}
    check(lambda w, x: x @ w.astype(x.dtype), *args, tolerance=0.03)  # the reference is rounded to bf16


def test_a_rounding_to_integers_is_no_mere_conversion():
    assert "w" not in found(lambda w, x: x @ w.astype(jnp.int8), W[0], X)


def test_dims_that_are_merged_are_contracted_together():
    def fun(w, x):
        return x @ w.reshape(12, 5)

    assert found(fun, draw(3, 4, 5), draw(2, 12)) == {"w": (0, 1)}
    check(fun, draw(3, 4, 5), draw(2, 12))


def test_a_scan_over_what_is_contracted():
    def fun(w, x):
        return lax.scan(lambda y, wx: (y + wx[1] @ wx[0], None), jnp.zeros((8, 4)), (w, jnp.stack([x] * 3)))[0]

    check(fun, W, X)


def test_other_arguments_may_be_anything():
    def fun(mode, w, x, *, shift=1):
        return (jnp.tanh(x) if mode == "tanh" else x) @ w + shift

    q = quantize_weights(W[0], (0,))
    expected = np.tanh(X) @ exact(q) + 2
    np.testing.assert_allclose(
        jax.jit(quantized(fun), static_argnums=0)("tanh", q, x=X, shift=2), expected, rtol=1e-5, atol=1e-5
    )


def test_the_program_takes_values_and_scales_in_place():
    closed = quantize(jax.make_jaxpr(lambda x, w, y: x @ w + y)(array(8, 4), array(4, 6), array(6)))
    assert [(a.shape, str(a.dtype)) for a in closed.in_avals] == [
        ((8, 4), "float32"), ((4, 6), "int8"), ((1, 6), "float32"), ((6,), "float32")
    ]  # fmt: skip
    assert [e.primitive.name for e in closed.eqns][:3] == ["convert_element_type", "dot_general", "mul"]


def test_the_result_keeps_its_dtype_and_is_not_wider_before():
    """What a sum over devices moves stays bf16."""
    closed = quantize(jax.make_jaxpr(lambda x, w: x @ w)(*(array(4, 4, dtype=jnp.bfloat16),) * 2))
    dot = next(e for e in closed.eqns if e.primitive.name == "dot_general")
    assert {v.aval.dtype for v in (*dot.invars, *dot.outvars, *closed.jaxpr.outvars)} == {jnp.dtype(jnp.bfloat16)}


# What is multiplied out


def test_other_readers_multiply_out_and_say_so():
    def fun(w, x):
        return jnp.tanh(x) @ w, jnp.sum(w)

    q = quantize_weights(W[0], (0,))
    (note,) = dequantized(fun, q, X)
    assert re.search(r"^w .* before reduce_sum at .*test_quantize\.py:\d+ \(.*fun\)", note)
    with pytest.warns(UserWarning, match="multiplied out before reduce_sum"):
        _, total = quantized(fun)(q, X)
    np.testing.assert_allclose(total, exact(q).sum(), rtol=1e-5)


def test_a_contraction_over_the_scales_dims_is_named():
    q = quantize_weights(W[0], (1,))
    (note,) = dequantized(lambda w, x: x @ w, q, X)
    assert "dot_general" in note and "test_quantize.py" in note


def test_clean_programs_have_no_notes():
    assert dequantized(steps(jax.jit), quantize_weights(W, (1,)), X) == ()


def test_a_tied_embedding_may_be_asked_for():
    def fun(table, tokens):
        return jnp.tanh(table[tokens]) @ table.T

    args = draw(6, 4), jnp.arange(3)
    assert not found(fun, *args)
    with pytest.warns(UserWarning, match="before gather"):
        check(fun, *args, which=(0,))


def test_what_no_matmul_reads_is_refused():
    with pytest.raises(ValueError, match="no matmul contracts argument 0"):
        quantize_arguments(lambda x: x + 1, X, which=(0,))


# Models


@cache
def sample(family, kind, scan):
    fun, args = getattr(FAMILIES[family], kind)("tiny", 8, 16, scan=scan)
    config = FAMILIES[family].config("tiny", scan)
    return fun, materialise(config, args, jax.random.key(0, impl="rbg"))


@cache
def both(family, kind, scan):
    """Results of the quantized model and of its own."""
    fun, args = sample(family, kind, scan)
    return run(quantized(fun), quantize_arguments(fun, *args)), run(fun, args)


@EVERY
def test_prefill_is_off_by_two_percent_at_most(family):
    """A value is off by a 254th of its channel's largest at most, and errors add up like noise."""
    some, plain = both(family, "prefill", True)
    errors = [off(a, b) for a, b in zip(jax.tree.leaves(some), jax.tree.leaves(plain))]
    assert all(1e-4 < error < 0.02 for error in errors), errors


@EVERY
def test_models_are_those_of_the_weights_in_int8(family):
    fun, args = sample(family, "prefill", True)
    check(fun, *args, tolerance=1e-4)


@EVERY
@SCAN
def test_decode_mostly_chooses_the_same_tokens(family, scan):
    (some, _), (plain, _) = both(family, "decode", scan)
    assert np.mean(some == plain) >= 7 / 8


@EVERY
def test_planned_decode_on_eight_devices_is_the_same(family):
    fun, args = sample(family, "decode", True)
    some, ((tokens, cache), _) = quantize_arguments(fun, *args), both(family, "decode", True)
    planned = autoshard(quantized(fun), mesh=mesh(2, 2, 2), machine=testing.EAGER, compiler_options=QUICK)
    plan = planned.plan(*some)
    assert plan.collectives and any(v.dtype == "int8" and any(v.spec) for v in plan.arguments)
    here, there = planned(*some)
    np.testing.assert_array_equal(here, tokens)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), there, cache)


# Costs


def plans(fun, args, **options):
    some = quantize_arguments(fun, *args)
    options |= {"mesh": abstract_mesh(4, 4, 4), "machine": "tpu-v4", "known": False}
    return make_plan(fun, *args, **options), make_plan(quantized(fun), *some, **options)


def scanned(plan):
    """Seconds and FLOPs of each layer's matmuls."""
    return [(op.seconds, op.flops) for op in plan.operations if op.primitive == "dot_general" and op.trips == 118]


def test_decode_of_palm_540b_loads_half_the_weights():
    wide, narrow = plans(*palm.decode_540b_b64(), donate_argnums=1)
    for name in ("up", "gate", "down", "wk", "wv"):
        before, after = (next(v for v in p.arguments if f"['{name}']" in v.name) for p in (wide, narrow))
        assert after.name.endswith(".values") and after.dtype == "int8"
        assert 2 * after.nbytes == before.nbytes
    assert sum(v.nbytes for v in narrow.arguments if v.name.endswith(".scales")) < 0.02 * narrow.peak_bytes
    assert 0.65 < narrow.seconds / wide.seconds < 0.8  # Pope et al. 2022: 36.9 ms to 28.5 ms
    seconds = [sum(s for s, _ in scanned(p)) for p in (wide, narrow)]
    assert 0.5 < seconds[1] / seconds[0] < 0.7  # their FLOPs stay
    assert "params['layers']['up'].scales" in explain(narrow)


def test_prefill_of_palm_540b_gathers_int8_and_computes_in_bf16():
    """Where nothing overlaps: a ring sends what it multiplies, which is bf16."""
    wide, narrow = plans(*palm.prefill_540b_b512(), cost_model=apart(abstract_mesh(4, 4, 4), "tpu-v4"))
    elements = (18432 * 64 * 256, 18432 * 73728)  # of attention's weights and of the MLP's
    for plan, itemsize in ((wide, 2), (narrow, 1)):
        gathered: dict[str, float] = {}
        for c in plan.collectives:
            if c.value == "slice loop input" and c.nbytes > 1e8:
                gathered[c.source] = max(c.nbytes, gathered.get(c.source, 0.0))
        assert {*gathered.values()} == {itemsize * n for n in elements} and len(gathered) == 5
    large = [[seconds for seconds, flops in scanned(p) if flops > 1e14] for p in (wide, narrow)]
    assert large[0] == pytest.approx(large[1], rel=0.01) and len(large[0]) >= 5  # int8 would take half


def test_the_compiled_program_gathers_int8():
    ws, x = draw(4, 64, 64, dtype=jnp.bfloat16), draw(1 << 12, 64, dtype=jnp.bfloat16)

    def fun(ws, x):
        return lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0]

    specs = (Quantized(P(None, "x"), None, ws.dtype), P("x"))
    planned = autoshard(quantized(fun), mesh=mesh(8), machine="tpu-v4", in_shardings=specs)
    text = planned.lower(*quantize_arguments(fun, ws, x)).compile().as_text()
    gathers = re.findall(r"= (\w+)\[[^=]* all-gather\(", text)
    assert gathers and set(gathers) == {"s8"}
