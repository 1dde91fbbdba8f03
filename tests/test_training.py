"""Training steps: any optimiser, any precision, any remat policy; layouts that others have published."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from graphs import abstract_mesh, array
from jax.sharding import PartitionSpec as P
from programs import mesh

from benchmarks.models import moe
from benchmarks.models.small import mlp, norm
from planner import autoshard, make_plan, testing

MESH = mesh(2, 4)
QUICK = {"xla_backend_optimization_level": 0}
D, F, LAYERS, ROWS = 16, 32, 2, 16
draw = np.random.default_rng(0)
PARAMS = {
    "up": (draw.normal(size=(LAYERS, D, F)) * D**-0.5).astype(np.float32),
    "down": (draw.normal(size=(LAYERS, F, D)) * F**-0.5).astype(np.float32),
    "out": draw.normal(size=(D, 8)).astype(np.float32),
}
X, Y = draw.normal(size=(ROWS, D)).astype(np.float32), np.arange(ROWS) % 8


def loss(params, x, y, policy=None, dtype=jnp.float32):
    """Residual MLPs under a scan, in the precision `dtype` of which the master weights are not."""
    params = jax.tree.map(lambda a: a.astype(dtype), params)

    def layer(x, w):
        return x + jnp.tanh(x @ w["up"]) @ w["down"], None

    body = layer if policy is None else jax.checkpoint(layer, policy=policy, prevent_cse=False)
    x, _ = jax.lax.scan(body, x.astype(dtype), {name: params[name] for name in ("up", "down")})
    logits = (x @ params["out"]).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def step(optimiser, **options):
    def train_step(params, state, x, y):
        value, grads = jax.value_and_grad(partial(loss, **options))(params, x, y)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    return train_step


OPTIMISERS = {
    "adamw": optax.adamw(1e-2),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=8),
    "lion": optax.lion(1e-2),
    "accumulated": optax.MultiSteps(optax.adamw(1e-2), 2),
    "clipped, scheduled": optax.chain(
        optax.clip_by_global_norm(0.1), optax.sgd(optax.cosine_decay_schedule(0.1, 10), momentum=0.9)
    ),
}


def check(optimiser, **options):
    state = optimiser.init(PARAMS)
    fun = step(optimiser, **options)
    given = {"mesh": MESH, "machine": testing.EAGER, "donate_argnums": (0, 1), "compiler_options": QUICK}
    testing.assert_equivalent(fun, PARAMS, state, X, Y, **given)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers(name):
    check(OPTIMISERS[name])


@pytest.mark.parametrize("policy", ["nothing_saveable", "dots_saveable"])
def test_remat_policies(policy):
    check(optax.sgd(0.1), policy=getattr(jax.checkpoint_policies, policy))


def test_mixed_precision():
    given = {"mesh": MESH, "machine": testing.EAGER, "compiler_options": QUICK}
    fun = step(optax.sgd(0.1), dtype=jnp.bfloat16)
    testing.assert_equivalent(fun, PARAMS, optax.sgd(0.1).init(PARAMS), X, Y, rtol=0.04, **given)


def test_moments_lie_as_their_parameters_do():
    optimiser = optax.adamw(1e-3)
    params = {"up": array(4096, 16384), "down": array(16384, 4096)}

    def fun(params, state, x):
        grads = jax.grad(lambda p: jnp.mean((jnp.tanh(x @ p["up"]) @ p["down"]) ** 2))(params)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(optimiser.init, params)
    done = planned(fun, params, state, array(8192, 4096), donate_argnums=(0, 1))
    specs = {v.name: v.spec for v in done.arguments}
    for name in ("up", "down"):
        moments = [spec for key, spec in specs.items() if key.endswith(f"['{name}']") and key.startswith("state")]
        assert len(moments) == 2
        assert all(parts(m) >= parts(specs[f"params['{name}']"]) > 1 for m in moments)


def parts(spec):
    return 8 ** sum(map(len, spec))


LINE = abstract_mesh(8)


def planned(fun, *args, **options):
    return make_plan(fun, *args, mesh=LINE, machine="tpu-v4", known=False, **options)


def sums(done):
    """All-reduces; a reduce_scatter and an all_gather of the same bytes are one in two halves."""
    kinds = Counter(c.kind for c in done.collectives)
    assert kinds["reduce_scatter"] == kinds["all_gather"]
    assert {c.kind for c in done.collectives} <= {"all_reduce", "reduce_scatter", "all_gather"}
    return kinds["all_reduce"] + kinds["reduce_scatter"]


def half(*shape):
    return array(*shape, dtype=jnp.bfloat16)


def descend(cost):
    """One step of gradient descent on the first argument."""

    def fun(params, *batch):
        grads = jax.grad(cost)(params, *batch)
        return jax.tree.map(lambda w, g: w - jnp.asarray(0.1, w.dtype) * g.astype(w.dtype), params, grads)

    return fun


def chain(ws, x, y):
    for w in ws[:-1]:
        x = jax.nn.relu(x @ w)
    return jnp.mean((x @ ws[-1] - y).astype(jnp.float32) ** 2)


@pytest.mark.parametrize("layers", [2, 4, 6])
def test_an_mlp_under_model_parallelism_sums_once_less_than_it_has_layers(layers):
    """Zheng et al. 2022 (Alpa), test_auto_sharding_mlp.py: L - 1, forward and backward together."""
    x = half(32, 8192)
    options = {"donate_argnums": 0, "in_shardings": (None, P(), P())}
    done = planned(descend(chain), [half(8192, 8192)] * layers, x, x, **options)
    assert sums(done) == layers - 1
    split = [v.spec for v in done.arguments if v.name.startswith("params")]
    assert all(spec in (((), ("x",)), (("x",), ())) for spec in split)
    assert split[0] == ((), ("x",))  # of the others either costs one sum, forward by rows or backward by columns


def fused_attention(w, x):
    q, k, v = jnp.einsum("ble,ethd->tblhd", x, w["qkv"])
    return attention(q, k, v, w)


def split_attention(w, x):
    q, k, v = (jnp.einsum("ble,ehd->blhd", x, w[name]) for name in "qkv")
    return attention(q, k, v, w)


def attention(q, k, v, w):
    shares = jax.nn.softmax(jnp.einsum("blhd,bmhd->bhlm", q, k))
    return jnp.einsum("bhlm,bmhd,hde->ble", shares, v, w["o"])


def bert(attend, ws, x, y):
    for w in ws:
        x = norm(x + attend(w, x))
        x = norm(x + mlp(w, x))
    return jnp.mean((x - y).astype(jnp.float32) ** 2)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("attend", [fused_attention, split_attention])
def test_a_bert_under_model_parallelism_sums_four_times_a_layer_but_once(layers, attend):
    """Zheng et al. 2022 (Alpa), test_auto_sharding_bert.py: 4L - 1.

    With q, k and v apart, their cotangents meet with that of the residual in a chain of additions.
    """
    e, heads = 4096, 32
    fused = attend is fused_attention
    projections = {"qkv": (e, 3, heads, e // heads)} if fused else dict.fromkeys("qkv", (e, heads, e // heads))
    w = {
        **{name: half(*shape) for name, shape in projections.items()},
        "o": half(heads, e // heads, e),
        "up": half(e, 4 * e),
        "down": half(4 * e, e),
    }
    x = half(8, 128, e)
    done = planned(descend(partial(bert, attend)), [w] * layers, x, x, donate_argnums=0, in_shardings=(None, P(), P()))
    assert sums(done) == 4 * layers - 1


def test_a_layer_of_experts_moves_tokens_four_times_and_sums_once():
    """Zheng et al. 2022 (Alpa), test_auto_sharding_moe.py: there and back, forward and backward; the router's sum."""

    def fun(w, x, y):
        grads, slope = jax.grad(lambda w, x: jnp.mean((x + moe.dense(w, x) - y) ** 2), (0, 1))(w, x)
        return jax.tree.map(lambda w, g: w - 0.1 * g, w, grads), slope

    w, x = (
        {"router": array(2048, 64), "up": array(64, 2048, 8192), "down": array(64, 8192, 2048)},
        array(64, 1024, 2048),
    )
    done = planned(fun, w, x, x, donate_argnums=0, in_shardings=(None, P("x"), P("x")), out_shardings=(None, P("x")))
    kinds = Counter(c.kind for c in done.collectives)
    assert kinds.pop("all_to_all") == 4
    assert kinds in ({"all_reduce": 1}, {"reduce_scatter": 1, "all_gather": 1})
    assert all(v.spec[0] == ("x",) for v in done.arguments if v.name in ("w['up']", "w['down']"))


def test_memory_decides_between_data_parallel_and_fully_sharded():
    """Rajbhandari et al. 2020: with much memory whole weights, with little a share of each on every device."""
    ws, x = [half(4096, 4096)] * 4, half(1 << 16, 4096)

    def infer(ws, x):
        for w in ws:
            x = jnp.tanh(x @ w)
        return x

    much = planned(infer, ws, x)
    little = planned(infer, ws, x, memory_limit=0.9 * much.peak_bytes)
    assert not much.collectives and all(v.spec == ((), ()) for v in much.arguments[:4])
    assert {c.kind for c in little.collectives} == {"all_gather"}
    assert any(("x",) in v.spec for v in little.arguments[:4])
    assert all(done.arguments[4].spec == (("x",), ()) for done in (much, little))


def adam(rows, **options):
    """One AdamW step of an MLP of 4096 by 16384 and back."""
    optimiser, params = optax.adamw(1e-3), {"up": half(4096, 16384), "down": half(16384, 4096)}

    def fun(params, state, x):
        def cost(p):
            return jnp.mean((jnp.tanh(x @ p["up"]) @ p["down"]).astype(jnp.float32) ** 2)

        grads = jax.grad(cost)(params)
        updates, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    args = params, jax.eval_shape(optimiser.init, params), half(rows, 4096)
    done = planned(fun, *args, donate_argnums=(0, 1), **options)
    specs = [v.spec for v in done.arguments]
    return done, specs[:2], [spec for spec in specs[2:-1] if spec], specs[-1]


WEIGHT = 2 * 4096 * 16384


def test_a_large_batch_trains_fully_sharded_and_a_small_one_tensor_parallel():
    """Rajbhandari et al. 2020 and Shoeybi et al. 2019: what moves is all weights, or all activations.

    Rings hide gathers of weights, so the backward pass gathers one anew, once it is split along its other dim.
    """
    done, weights, moments, batch = adam(1 << 16)
    assert batch == (("x",), ())
    assert all(parts(spec) == 8 for spec in (*weights, *moments)) and len(moments) == 4
    assert Counter((c.kind, c.nbytes) for c in done.collectives) == {
        ("all_gather", WEIGHT): 3,
        ("all_to_all", WEIGHT / 8): 1,
        ("reduce_scatter", WEIGHT): 2,
    }
    done, weights, moments, batch = adam(64)
    assert batch == ((), ())
    assert all(parts(spec) == 8 for spec in (*weights, *moments))
    assert done.collectives and all(c.nbytes == 64 * 4096 * 2 for c in done.collectives)


def test_moments_are_split_finer_than_weights_that_are_to_be_whole():
    """Rajbhandari et al. 2020, the first stage: gradients are scattered, new weights gathered."""
    done, weights, moments, batch = adam(1 << 16, in_shardings=(P(), None, None))
    assert batch == (("x",), ())
    assert [parts(spec) for spec in weights] == [1, 1] and [parts(spec) for spec in moments] == [8] * 4
    assert Counter(c.kind for c in done.collectives) == {"reduce_scatter": 2, "all_gather": 2}


def test_weights_are_gathered_again_when_memory_is_tight():
    """Rajbhandari et al. 2020, the third stage: a gathered weight is kept for the backward pass while there is room."""
    x = half(1 << 14, 4096)
    step = partial(planned, descend(chain), [half(4096, 4096)] * 4, x, x, donate_argnums=0)
    much = step()
    little = step(memory_limit=0.85 * much.peak_bytes)
    assert Counter(c.kind for c in much.collectives) == {"reduce_scatter": 4, "all_gather": 4}
    found = Counter(c.kind for c in little.collectives if c.kind != "all_to_all")
    assert found == {"reduce_scatter": 4, "all_gather": 6}


def test_a_planned_function_under_grad_vmap_and_jit():
    def fun(w, x):
        return jnp.tanh(x @ w["up"][0]) @ w["down"][0]

    ours = autoshard(fun, mesh=MESH, machine=testing.EAGER)

    def total(f):
        return lambda w, x: jnp.sum(jnp.sin(f(w, x)))

    many = np.stack([X, X + 1])
    for around in (
        lambda f: jax.grad(total(f))(PARAMS, X),
        lambda f: jax.jit(jax.value_and_grad(total(f)))(PARAMS, X),
        lambda f: jax.vmap(f, (None, 0))(PARAMS, many),
        lambda f: jax.jit(jax.vmap(jax.grad(total(f)), (None, 0)))(PARAMS, many),
        lambda f: jax.jvp(partial(f, PARAMS), (X,), (X,)),
        lambda f: jax.lax.scan(lambda c, x: (c + f(PARAMS, x), None), jnp.zeros((ROWS, D)), many)[0],
        lambda f: jax.hessian(lambda x: total(f)(PARAMS, x[None]))(X[:8])[0, 0],
    ):
        testing.assert_close(around(fun), around(ours), "around", 2e-5)
