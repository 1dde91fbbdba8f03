from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.models import FAMILIES, init, layers, llama, materialise, mt_nlg, palm, tiny, transformer
from benchmarks.models.config import Config
from benchmarks.models.weights import count

EVERY = pytest.mark.parametrize("family", FAMILIES)
KINDS = ("decode", "prefill", "train")

# Compiled once for each config.
prefill = jax.jit(transformer.prefill, static_argnums=0)
step = jax.jit(transformer.decode, static_argnums=0)
slope = jax.jit(jax.value_and_grad(transformer.loss, argnums=1), static_argnums=0)


def quick_key() -> jax.Array:
    return jax.random.key(0, impl="rbg")  # compiles in a third of the time


@cache
def sample(family: str):
    """Config, parameters and prompts [8, 12] of a tiny model."""
    config = tiny(family)
    tokens = jax.random.randint(quick_key(), (8, 12), 0, config.vocab, jnp.int32)
    return config, init(config, quick_key()), tokens


def unstack(config: Config, stacked):
    """A tuple of each layer's tree, from the stacked one."""
    return tuple(jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(config.layers))


def unrolled(config: Config, params):
    return replace(config, scan=False), {**params, "layers": unstack(config, params["layers"])}


def padded(config: Config, cache, context: int):
    """The cache with room for `context` positions."""
    axis = 2 if config.scan else 1
    return jax.tree.map(
        lambda a: jnp.pad(a, [(0, context - n if d == axis else 0) for d, n in enumerate(a.shape)]), cache
    )


def close(left, right, tolerance: float = 2e-5) -> None:
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), left, right)


def calm(tree) -> bool:
    return all(np.all(np.isfinite(a)) and np.max(np.abs(a)) < 100 for a in jax.tree.leaves(tree))


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
    config, params, tokens = sample(family)
    if not scan:
        config, params = unrolled(config, params)
    cache = padded(config, prefill(config, params, tokens[:, :8])[1], 16)
    scores = jnp.zeros(())
    for i in range(8, 12):
        scores, cache = step(config, params, cache, tokens[:, i], jnp.int32(i))
    expected, whole = prefill(config, params, tokens)
    close(scores, expected)
    close(cache, padded(config, whole, 16))


@EVERY
def test_decode_returns_the_likeliest_token(family):
    fun, args = FAMILIES[family].decode("tiny", 8, 16)
    config = tiny(family)
    concrete = materialise(config, args, quick_key())
    tokens, _ = jax.jit(fun)(*concrete)
    scores, cache = step(config, *concrete)
    assert calm((scores, cache))
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, np.argmax(scores, axis=-1))


@EVERY
def test_later_tokens_do_not_change_earlier_keys(family):
    config, params, tokens = sample(family)
    _, cache = prefill(config, params, tokens)
    _, other = prefill(config, params, tokens.at[:, 8:].set(0))
    early = partial(jax.tree.map, lambda a: a[:, :, :8])
    close(early(cache), early(other), 1e-6)
    assert not np.allclose(cache["k"], other["k"])


@EVERY
def test_order_of_tokens_matters(family):
    config, params, tokens = sample(family)
    swapped = tokens[:, jnp.array([1, 0, *range(2, 12)])]
    left, right = (prefill(config, params, t)[0] for t in (tokens, swapped))
    assert np.max(np.abs(left - right)) > 1e-3


@pytest.mark.parametrize("family", ["palm", "llama"])
def test_rotary_attention_sees_distances_only(family):
    config, params, _ = sample(family)
    layer, x = unstack(config, params["layers"])[0], jax.random.normal(quick_key(), (8, 12, 32))

    @jax.jit
    def at(positions):
        place = layers.Place(jnp.zeros((12, 12)), *transformer.rotation(config, positions))
        return layers.attention(config, layer, x, place, None)[0]

    here = at(jnp.arange(12))
    close(here, at(jnp.arange(12) + 5))
    assert not np.allclose(here, at(2 * jnp.arange(12)), atol=1e-3)


@EVERY
def test_scan_equals_unrolled(family):
    config, params, tokens = sample(family)
    loose, split = unrolled(config, params)
    scores, cache = prefill(config, params, tokens)
    assert calm((scores, cache))
    close((scores, unstack(config, cache)), prefill(loose, split, tokens))
    value, grads = slope(config, params, tokens)
    expected, slopes = slope(loose, split, tokens)
    close(value, expected)
    close({**grads, "layers": unstack(config, grads["layers"])}, slopes)


@EVERY
def test_every_parameter_matters(family):
    _, grads = slope(*sample(family))
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.max(np.abs(grad)) > 1e-6, jax.tree_util.keystr(path)


@EVERY
def test_training_lowers_the_loss(family):
    fun, args = FAMILIES[family].train("tiny", 8, 16)
    compiled = jax.jit(fun)
    params, opt_state, tokens = materialise(tiny(family), args, quick_key())
    assert calm(compiled(params, opt_state, tokens))
    opt_state = jax.tree.map(jnp.zeros_like, opt_state)
    losses = []
    for _ in range(5):
        params, opt_state, loss = compiled(params, opt_state, tokens)
        losses.append(float(loss))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1


@EVERY
@pytest.mark.parametrize("kind", KINDS)
def test_concrete_arguments_fit(family, kind):
    for scan in (True, False):
        _, args = getattr(FAMILIES[family], kind)("tiny", 8, 16, scan=scan)
        concrete = materialise(FAMILIES[family].config("tiny", scan), args, quick_key())
        assert jax.tree.structure(concrete) == jax.tree.structure(args)
        assert shapes(concrete) == shapes(args)


@EVERY
@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_can_split_every_tiny_dim(family, kind):
    _, args = getattr(FAMILIES[family], kind)("tiny", 8, 16, scan=False)
    sizes = {n for leaf in jax.tree.leaves(args) for n in leaf.shape}
    assert all(n % 8 == 0 for n in sizes - {17})  # 17 tokens are 16 to predict


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("family", "size"),
    [(name, size) for name, family in FAMILIES.items() for size in family.sizes if size != "tiny"],
)
def test_real_sizes_trace(family, size, kind):
    fun, args = getattr(FAMILIES[family], kind)(size)
    jaxpr, out = jax.make_jaxpr(fun, return_shape=True)(*args)
    assert equations(jaxpr.jaxpr) < {"decode": 130, "prefill": 130, "train": 750}[kind]
    assert not jaxpr.consts
    if kind != "prefill":
        state = {"decode": (args[1], out[1]), "train": (args[:2], out[:2])}[kind]
        assert shapes(state[0]) == shapes(state[1])


def shapes(tree):
    return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def equations(jaxpr) -> int:
    inner = [getattr(value, "jaxpr", value) for eqn in jaxpr.eqns for value in eqn.params.values()]
    return len(jaxpr.eqns) + sum(equations(value) for value in inner if hasattr(value, "eqns"))


def test_unrolled_decode_of_a_real_size_traces():
    fun, args = palm.decode(scan=False)
    assert equations(jax.make_jaxpr(fun)(*args).jaxpr) < 118 * 90


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
