"""Where the literature knows the best layout, the planner finds it."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from graphs import abstract_mesh, array
from jax.sharding import PartitionSpec as P

from benchmarks.models import palm
from planner import make_plan

LINE = abstract_mesh(8)
X = ("x",)
E, F = 8192, 32768


def bf16(*shape):
    return array(*shape, dtype=jnp.bfloat16)


def planned(fun, *args, mesh=LINE, **options):
    plan = make_plan(fun, *args, mesh=mesh, machine="tpu-v4", known=False, **options)
    assert plan.status == "optimal"
    return plan


def kinds(plan):
    return Counter(c.kind for c in plan.collectives)


def specs(plan):
    return {v.name: v.spec for v in plan.arguments}


def mlp(layers, x):
    for up, down in layers:
        x = jnp.tanh(x @ up) @ down
    return x


def residual(layers, x):
    for up, down in layers:
        x = x + jnp.tanh(x @ up) @ down
    return x


def weights(n, e=E, f=F):
    return [(bf16(e, f), bf16(f, e))] * n


WHOLE = {"in_shardings": (None, P()), "out_shardings": P()}


@pytest.mark.parametrize("layers", [1, 3])
def test_a_small_batch_alternates_columns_and_rows_with_one_all_reduce_a_layer(layers):
    """Shoeybi et al. 2019: no collective between the two matmuls of an MLP."""
    plan = planned(mlp, weights(layers), bf16(32, E), **WHOLE)
    for name, spec in specs(plan).items():
        if name.startswith("layers"):
            assert spec == (((), X) if name.endswith("[0]") else (X, ()))
    assert kinds(plan) == {"all_reduce": layers}
    assert {c.nbytes for c in plan.collectives} == {2 * 32 * E}


def test_a_residual_stream_is_split_between_layers():
    """Korthikanti et al. 2022: an all_reduce as a reduce_scatter and an all_gather, for the same bytes."""
    plan = planned(residual, weights(3), bf16(32, E), **WHOLE)
    assert kinds(plan) == {"reduce_scatter": 3, "all_gather": 3}
    gathers = [c.kind for c in plan.collectives]
    assert gathers == ["reduce_scatter", "all_gather"] * 3


def loss(layers, x):
    return jnp.mean(mlp(layers, x).astype(jnp.float32) ** 2)


def step(layers, x):
    """One step of gradient descent."""
    grads = jax.grad(loss)(layers, x)
    return jax.tree.map(lambda w, g: w - 0.1 * g.astype(w.dtype), layers, grads)


def test_a_large_batch_is_split_and_needs_no_collective_where_memory_abounds():
    plan = planned(mlp, weights(2, 2048, 8192), bf16(1 << 17, 2048))
    assert not plan.collectives
    assert specs(plan)["x"] == (X, ())
    assert {spec for name, spec in specs(plan).items() if name != "x"} == {((), ())}


def test_training_with_whole_weights_is_data_parallel():
    """Each weight's gradient is reduced once, all bytes twice over the wire: all_reduce, or its two halves."""
    plan = planned(
        step, weights(2, 2048, 8192), bf16(1 << 17, 2048), in_shardings=([(P(), P())] * 2, None), out_shardings=P()
    )
    assert specs(plan)["x"] == (X, ())
    moved = kinds(plan)
    assert moved["all_reduce"] + moved["reduce_scatter"] == 4
    assert moved["reduce_scatter"] == moved["all_gather"]
    assert sum(moved.values()) == moved["all_reduce"] + 2 * moved["reduce_scatter"]
    assert {c.nbytes for c in plan.collectives} == {2 * 2048 * 8192}


def test_training_with_donated_weights_shards_them_between_steps():
    """Rajbhandari et al. 2020 (ZeRO): the same bytes as an all_reduce, and an eighth of the update.

    A gather inside of a matmul costs nothing here, so most weights are gathered again for their gradients, some once
    they are split along their other dim.
    """
    plan = planned(step, weights(2, 2048, 8192), bf16(1 << 17, 2048), donate_argnums=0)
    assert kinds(plan)["reduce_scatter"] == 4 <= kinds(plan)["all_gather"] <= 8
    whole = 2 * 2048 * 8192
    assert {c.nbytes for c in plan.collectives if c.kind != "all_to_all"} == {whole}
    assert {c.nbytes for c in plan.collectives if c.kind == "all_to_all"} <= {whole / 8}
    assert all(X in spec for spec in specs(plan).values())


def test_little_memory_gathers_each_weight_where_it_is_used():
    """Fully sharded data parallel: weights are split, and whole only while they work."""
    n, layers = 2 * 4096 * 4096, 8
    chain = [bf16(4096, 4096)] * layers

    def fun(ws, x):
        for w in ws:
            x = jnp.tanh(x @ w)
        return x

    plan = planned(fun, chain, bf16(1 << 15, 4096), memory_limit=0.6 * layers * n)
    assert kinds(plan) == {"all_gather": layers}
    assert {c.nbytes for c in plan.collectives} == {float(n)}
    assert all(X in spec for spec in specs(plan).values())
    assert plan.peak_bytes <= plan.limit < layers * n


def test_scanned_weights_are_gathered_layer_by_layer_not_all_at_once():
    layers, n = 16, 2 * 4096 * 4096

    def fun(ws, x):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, ws)[0]

    plan = planned(fun, bf16(layers, 4096, 4096), bf16(1 << 16, 4096), memory_limit=0.9 * layers * n)
    (gather,) = plan.collectives
    assert (gather.kind, gather.nbytes, gather.trips) == ("all_gather", n, layers)


B, T, H, D = 64, 8192, 64, 128


def attention(multi):
    """One token of each sequence looks at its cache, between two projections."""
    keys = "bthd" if multi else "btd"

    def fun(w, cache, x):
        q = jnp.einsum("be,ehd->bhd", x, w["q"])
        scores = jnp.einsum(f"bhd,{keys}->bht", q, cache["k"])
        shares = jax.nn.softmax(scores.astype(jnp.float32), -1).astype(x.dtype)
        mixed = jnp.einsum(f"bht,{keys}->bhd", shares, cache["v"])
        return jnp.einsum("bhd,hde->be", mixed, w["o"])

    cache = bf16(B, T, H, D) if multi else bf16(B, T, D)
    return fun, ({"q": bf16(E, H, D), "o": bf16(H, D, E)}, {"k": cache, "v": cache}, bf16(B, E))


def test_multiquery_attention_is_split_over_the_batch():
    """Pope et al. 2022, section 3.3: an all_to_all of the query costs less than every device reading all keys."""
    fun, args = attention(multi=False)
    plan = planned(fun, *args)
    assert specs(plan)["cache['k']"] == specs(plan)["cache['v']"] == (X, (), ())
    assert specs(plan)["w['q']"] == ((), X, ())
    first = plan.collectives[0]
    assert first.kind == "all_to_all" and first.nbytes == 2 * B * H * D / 8


def test_multihead_attention_is_split_over_heads():
    fun, args = attention(multi=True)
    plan = planned(fun, *args)
    assert specs(plan)["cache['k']"] == specs(plan)["cache['v']"] == ((), (), X, ())
    assert "all_to_all" not in kinds(plan)


def branches(w, x):
    y = jnp.tanh(x)
    return jnp.tanh(y @ w["q"]) @ w["o"], jnp.tanh(y @ w["up"]) @ w["down"]


def parallel(w, x):
    attended, hidden = branches(w, x)
    return x + (attended + hidden)


def serial(w, x):
    x = x + branches(w, x)[0]
    return x + branches(w, x)[1]


BLOCK = {"q": bf16(E, E), "o": bf16(E, E), "up": bf16(E, F), "down": bf16(F, E)}


def test_a_parallel_block_sums_before_it_reduces():
    """Pope et al. 2022, section 3.4: the open sums of both branches meet in one reduction."""
    plan = planned(parallel, BLOCK, bf16(32, E), **WHOLE)
    assert kinds(plan) == {"reduce_scatter": 1, "all_gather": 1}
    assert plan.collectives[0].value == "add"
    notations = [op.notation for op in plan.operations if op.primitive == "dot_general"]
    assert sum("partialsum" in text for text in notations) == 2


def test_a_serial_block_moves_twice_as_much():
    one, two = (planned(block, BLOCK, bf16(32, E), **WHOLE) for block in (parallel, serial))
    assert len(two.collectives) == 2 * len(one.collectives)
    assert sum(c.seconds for c in two.collectives) == pytest.approx(2 * sum(c.seconds for c in one.collectives))


def test_no_layout_of_the_paper_beats_the_plan():
    plan = make_plan(*_flat(palm.decode("tiny", 16, 32)), mesh=abstract_mesh(2, 2, 2), machine="tpu-v4")
    assert len(plan.known) == 8
    scored = [k.seconds for k in plan.known if k.seconds is not None]
    assert scored and min(scored) >= plan.seconds


def _flat(workload):
    fun, args = workload
    return fun, *args


def test_weight_gathered_prefill_takes_over_where_tokens_abound():
    """Pope et al. 2022, figure 3: with few tokens activations move, with many the weights do."""

    def block(w, x):
        return x + jnp.tanh(x @ w["up"]) @ w["down"]

    w = {"up": bf16(E, F), "down": bf16(F, E)}
    stored = {"up": P("x", ("y", "z")), "down": P(("y", "z"), "x")}
    mesh = abstract_mesh(4, 4, 4)
    few, many = (planned(block, w, bf16(n, E), mesh=mesh, in_shardings=(stored, None)) for n in (64, 1 << 20))
    by = [{c.value for c in plan.collectives} for plan in (few, many)]
    assert not {"w['up']", "w['down']"} & by[0]
    assert {"w['up']", "w['down']"} <= by[1]
