"""Flax models of transformers: causal language models, T5, BERT and ViT, from a config."""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import transformers  # pyright: ignore[reportMissingImports]

from benchmarks.zoo.entry import Entry, Workload, shapes

T5_MODULE = "transformers.models.t5.modeling_flax_t5"
BATCH, LENGTH, TINY_LENGTH = 16, 1024, 8
Inputs = Callable[[Any, bool], dict[str, Any]]


class OlderNumpy:
    """`jax.numpy` with the `a_max` that jax 0.10 took from `clip`, and T5 of transformers 4.57 still gives."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: Any, a_min: Any = None, a_max: Any = None) -> Any:
        """`jnp.clip` under its older names."""
        return jnp.clip(x, a_min, a_max)


def _tokens(config: Any, tiny: bool, *names: str) -> dict[str, Any]:
    shape = (8, TINY_LENGTH) if tiny else (BATCH, LENGTH)
    ids = jax.random.randint(jax.random.key(1), shape, 0, config.vocab_size) if tiny else None
    return {name: ids if tiny else jax.ShapeDtypeStruct(shape, jnp.int32) for name in names}


def _text(config: Any, tiny: bool) -> dict[str, Any]:
    return _tokens(config, tiny, "input_ids")


def _pairs(config: Any, tiny: bool) -> dict[str, Any]:
    return _tokens(config, tiny, "input_ids", "decoder_input_ids")


def _images(config: Any, tiny: bool) -> dict[str, Any]:
    shape = (8 if tiny else BATCH, 3, config.image_size, config.image_size)
    values = jax.random.normal(jax.random.key(1), shape) if tiny else jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"pixel_values": values}


def _workload(model_class: str, config: Any, inputs: Inputs, tiny: bool) -> Workload:
    kind = getattr(transformers, model_class)
    if kind.__module__ == T5_MODULE:
        setattr(sys.modules[T5_MODULE], "jnp", OlderNumpy())  # noqa: B010
    model = kind(config, _do_init=False)
    given = inputs(config, tiny)
    like = {name: x.shape for name, x in given.items()}
    shape = (
        next(iter(like.values())) if "pixel_values" not in like else (1, *(like["pixel_values"][i] for i in (2, 3, 1)))
    )
    make = partial(model.init_weights, jax.random.key(0), shape)
    params = make() if tiny else shapes(jax.eval_shape(make))

    def forward(params: Any, *values: Any) -> Any:
        return model(**dict(zip(given, values)), params=params)[0]

    return forward, (params, *given.values())


def _entry(
    name: str,
    model: str,
    config: str,
    layers: str,
    real: Mapping[str, int],
    tiny: Mapping[str, int],
    inputs: Inputs = _text,
) -> Entry:
    make = getattr(transformers, config)
    return Entry(
        name,
        "transformers",
        lambda: _workload(model, make(**tiny, **{layers: 2}), inputs, tiny=True),
        lambda n: _workload(model, make(**real, **{layers: n}), inputs, tiny=False),
    )


_LLAMA = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
_TINY_LLAMA = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 8}
_OPT = {"vocab_size": 50272, "hidden_size": 4096, "ffn_dim": 16384, "num_attention_heads": 32}
_TINY_OPT = {"vocab_size": 64, "hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 8, "word_embed_proj_dim": 32}
_BERT = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
_TINY_BERT = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 8}
_T5 = {"vocab_size": 32128, "d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_heads": 16}
_TINY_T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 8}
_TINY_GPT = {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_head": 8}


def entries() -> tuple[Entry, ...]:
    """Every model of this package."""
    gpt2 = {"n_embd": 1600, "n_head": 25}
    gptj = {"n_embd": 4096, "n_head": 16, "rotary_dim": 64}
    bloom = {"vocab_size": 250880, "hidden_size": 4096, "n_head": 32}
    tiny_bloom = {"vocab_size": 64, "hidden_size": 32, "n_head": 8}
    opt = {**_OPT, "word_embed_proj_dim": 4096}
    return (
        _entry("Llama 7B", "FlaxLlamaForCausalLM", "LlamaConfig", "num_hidden_layers", _LLAMA, _TINY_LLAMA),
        _entry("GPT-2 XL", "FlaxGPT2LMHeadModel", "GPT2Config", "n_layer", gpt2, _TINY_GPT),
        _entry("OPT 6.7B", "FlaxOPTForCausalLM", "OPTConfig", "num_hidden_layers", opt, _TINY_OPT),
        _entry("Bloom 7B", "FlaxBloomForCausalLM", "BloomConfig", "n_layer", bloom, tiny_bloom),
        _entry("GPT-J 6B", "FlaxGPTJForCausalLM", "GPTJConfig", "n_layer", gptj, {**_TINY_GPT, "rotary_dim": 4}),
        _entry("T5 Large", "FlaxT5ForConditionalGeneration", "T5Config", "num_layers", _T5, _TINY_T5, _pairs),
        _entry(
            "BERT Large",
            "FlaxBertForMaskedLM",
            "BertConfig",
            "num_hidden_layers",
            {**_BERT, "max_position_embeddings": LENGTH},
            {**_TINY_BERT, "vocab_size": 64},
        ),
        _entry(
            "ViT Large",
            "FlaxViTForImageClassification",
            "ViTConfig",
            "num_hidden_layers",
            _BERT,
            {**_TINY_BERT, "image_size": 32, "patch_size": 8},
            _images,
        ),
    )
