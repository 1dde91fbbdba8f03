from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.models import FAMILIES, init, llama, materialise, mt_nlg, palm, tiny, transformer
from benchmarks.models.config import Config
from benchmarks.models.weights import count

EVERY = pytest.mark.parametrize("family", FAMILIES)
KINDS = ("decode", "prefill", "train")


def prompt(config: Config, length: int, batch: int = 8) -> jax.Array:
    return jax.random.randint(jax.random.key(1), (batch, length), 0, config.vocab, jnp.int32)


def unstack(config: Config, stacked):
    """A tuple of each layer's tree, from the stacked one."""
    return tuple(jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(config.layers))


def padded(config: Config, cache, context: int):
    """The cache with room for `context` positions."""
    axis = 2 if config.scan else 1
    return jax.tree.map(
        lambda a: jnp.pad(a, [(0, context - n if d == axis else 0) for d, n in enumerate(a.shape)]), cache
    )


def close(left, right, tolerance: float = 2e-5) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), left, right)


@pytest.mark.parametrize(
    ("config", "billions"),
    [
        (palm.palm_8b, 8.6),
        (palm.palm_62b, 62.5),
        (palm.palm_540b_unpadded, 540.4),
        (palm.palm_540b, 558.2),
        (llama.llama_8b, 8.0),
        (llama.llama_70b, 70.6),
        (llama.llama_405b, 405.9),
        (mt_nlg.mt_nlg_530b, 529.6),
    ],
)
def test_parameter_count(config, billions):
    assert round(count(config) / 1e9, 1) == billions
    assert count(replace(config, scan=False)) == count(config)


def test_padding_palm_heads_adds_queries_and_outputs_only():
    added = count(palm.palm_540b) - count(palm.palm_540b_unpadded)
    assert added == 118 * 18432 * 16 * 256 * 2


@EVERY
@pytest.mark.parametrize("scan", [True, False])
def test_decode_continues_prefill(family, scan):
    config = replace(tiny(family), scan=scan)
    params, tokens = init(config, jax.random.key(0)), prompt(config, 12)
    prefill = jax.jit(partial(transformer.prefill, config))
    step = jax.jit(partial(transformer.decode, config))
    cache = padded(config, prefill(params, tokens[:, :8])[1], 16)
    for i in range(8, 12):
        scores, cache = step(params, cache, tokens[:, i], jnp.int32(i))
    expected, whole = prefill(params, tokens)
    close(scores, expected)
    close(cache, padded(config, whole, 16))


@EVERY
def test_decode_returns_the_likeliest_token(family):
    fun, args = FAMILIES[family].decode("tiny", 8, 16)
    config = tiny(family)
    concrete = materialise(config, args, jax.random.key(0))
    tokens, _ = jax.jit(fun)(*concrete)
    scores, _ = transformer.decode(config, *concrete)
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, np.argmax(scores, axis=-1))


@EVERY
def test_later_tokens_do_not_change_earlier_keys(family):
    config = tiny(family)
    params, tokens = init(config, jax.random.key(0)), prompt(config, 12)
    _, cache = transformer.prefill(config, params, tokens)
    _, other = transformer.prefill(config, params, tokens.at[:, 8:].set(0))
    early = partial(jax.tree.map, lambda a: a[:, :, :8])
    close(early(cache), early(other), 1e-6)
    assert not np.allclose(cache["k"], other["k"])


@EVERY
def test_order_of_tokens_matters(family):
    config = tiny(family)
    params, tokens = init(config, jax.random.key(0)), prompt(config, 12)
    swapped = tokens[:, jnp.array([1, 0, *range(2, 12)])]
    left, right = (transformer.prefill(config, params, t)[0] for t in (tokens, swapped))
    assert np.max(np.abs(left - right)) > 1e-3


@EVERY
def test_scan_equals_unrolled(family):
    config = replace(tiny(family), layers=3)
    unrolled = replace(config, scan=False)
    params, tokens = init(config, jax.random.key(0)), prompt(config, 9)
    split = {**params, "layers": unstack(config, params["layers"])}
    scores, cache = transformer.prefill(config, params, tokens)
    close((scores, unstack(config, cache)), transformer.prefill(unrolled, split, tokens))
    value, grads = jax.jit(jax.value_and_grad(partial(transformer.loss, config)))(params, tokens)
    expected, slopes = jax.jit(jax.value_and_grad(partial(transformer.loss, unrolled)))(split, tokens)
    close(value, expected)
    close({**grads, "layers": unstack(config, grads["layers"])}, slopes)


@EVERY
def test_every_parameter_matters(family):
    config = tiny(family)
    grads = jax.grad(partial(transformer.loss, config))(init(config, jax.random.key(0)), prompt(config, 9))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.max(np.abs(grad)) > 1e-6, jax.tree_util.keystr(path)


@EVERY
def test_training_lowers_the_loss(family):
    fun, (_, opt_state, tokens) = FAMILIES[family].train("tiny", 8, 16)
    config, step = tiny(family), jax.jit(fun)
    params, tokens = init(config, jax.random.key(0)), prompt(config, tokens.shape[1])
    opt_state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), opt_state)
    losses = []
    for _ in range(5):
        params, opt_state, loss = step(params, opt_state, tokens)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1


@EVERY
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scan", [True, False])
def test_concrete_arguments_fit_and_are_calm(family, kind, scan):
    fun, args = getattr(FAMILIES[family], kind)("tiny", 8, 16, scan=scan)
    concrete = materialise(FAMILIES[family].config("tiny", scan), args, jax.random.key(0))
    assert jax.tree.map(jax.typeof, concrete) == jax.tree.map(lambda a: jax.typeof(jnp.zeros(a.shape, a.dtype)), args)
    for leaf in jax.tree.leaves(jax.jit(fun)(*concrete)):
        assert np.all(np.isfinite(leaf)) and np.max(np.abs(leaf)) < 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("family", "size"),
    [(name, size) for name, family in FAMILIES.items() for size in family.sizes if size != "tiny"],
)
def test_real_sizes_trace(family, size, kind):
    fun, args = getattr(FAMILIES[family], kind)(size)
    jaxpr, out = jax.make_jaxpr(fun, return_shape=True)(*args)
    assert equations(jaxpr.jaxpr) < {"decode": 120, "prefill": 120, "train": 900}[kind]
    if kind != "prefill":
        state = {"decode": (args[1], out[1]), "train": (args[:2], out[:2])}[kind]
        assert shapes(state[0]) == shapes(state[1])


def shapes(tree):
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def equations(jaxpr) -> int:
    inner = [getattr(value, "jaxpr", value) for eqn in jaxpr.eqns for value in eqn.params.values()]
    return len(jaxpr.eqns) + sum(equations(value) for value in inner if hasattr(value, "eqns"))


def test_published_shapes_of_the_cache():
    _, (_, cache, tokens, position) = palm.decode_540b_b512()
    assert cache["k"].shape == (118, 512, 2048, 256)
    assert (tokens.shape, position.shape) == ((512,), ())
    assert llama.decode_70b()[1][1]["v"].shape == (80, 512, 2048, 8, 128)
    assert mt_nlg.decode_530b()[1][1]["v"].shape == (105, 128, 2048, 128, 160)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="choose one of tiny, 8b"):
        palm.decode("9b")
    with pytest.raises(ValueError, match="4096 positions"):
        mt_nlg.prefill(length=4096)
    with pytest.raises(ValueError, match="choose a divisor"):
        replace(llama.llama_8b, kv_heads=5)
