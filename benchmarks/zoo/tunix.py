"""Models of google-tunix, one step of generation with their KV cache: Llama 3, Gemma, Qwen3 and its mixture of experts.

tunix annotates its parameters with mesh axes of its own; those are left out here, as they are what is to be found.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma import model as gemma  # pyright: ignore[reportMissingImports]
from tunix.models.llama3 import model as llama  # pyright: ignore[reportMissingImports]
from tunix.models.qwen3 import model as qwen  # pyright: ignore[reportMissingImports]

import planner
from benchmarks.zoo.entry import Entry, Workload

BATCH, CONTEXT, TINY_CONTEXT = 64, 2048, 16
_TINY = {"num_layers": 2, "embed_dim": 16, "hidden_dim": 32, "num_heads": 8, "head_dim": 8, "num_kv_heads": 4}
_THEIRS = {"vocab_size": 64, "rope_theta": 500_000, "norm_eps": 1e-5}


def unannotated(config: Any) -> Any:
    """The config with no mesh axis for any parameter or activation."""
    given = config.shd_config
    specs = {f.name: getattr(given, f.name) for f in fields(given)}
    return replace(config, shd_config=type(given)(**{k: (None,) * len(v) for k, v in specs.items()}))


def _workload(model: Any, config: Any, tiny: bool) -> Workload:
    batch, context = (8, TINY_CONTEXT) if tiny else (BATCH, CONTEXT)
    config = unannotated(config)
    make = partial(model, config)
    built = make(rngs=nnx.Rngs(0)) if tiny else nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    fun, state = planner.functional(built, lambda model, *args: model(*args))
    args = jax.eval_shape(partial(decode_arguments, config, batch, context))
    return fun, (state, *(decode_arguments(config, batch, context) if tiny else args))


def decode_arguments(config: Any, batch: int, context: int) -> tuple[Any, ...]:
    """Token and position [B, 1], the cache half full, the mask [B, 1, T]."""
    half = context // 2
    kv = jnp.full((batch, context, config.num_kv_heads, config.head_dim), 0.1)
    layer = {"k": kv, "v": kv, "end_index": jnp.full((batch,), half, jnp.int32)}
    cache = {f"layer_{i}": dict(layer) for i in range(config.num_layers)}
    place = jnp.full((batch, 1), half, jnp.int32)
    mask = jnp.broadcast_to(jnp.arange(context) <= half, (batch, 1, context))
    return jnp.ones((batch, 1), jnp.int32), place, cache, mask


def _entry(name: str, model: Any, tiny: Any, real: Any, **more: Any) -> Entry:
    def sized(n: int) -> Any:
        return replace(real, num_layers=n, **{k: v * n for k, v in more.items()})

    return Entry(
        name,
        "google-tunix",
        lambda: _workload(model, tiny, tiny=True),
        lambda n: _workload(model, sized(n), tiny=False),
        donated=(3,),
    )


def entries() -> tuple[Entry, ...]:
    """Every model of this package."""
    kinds = (gemma.AttentionType.GLOBAL,)
    plain: Mapping[str, Any] = {"use_post_attn_norm": False, "use_post_ffw_norm": False, "final_logit_softcap": None}
    tiny_gemma = gemma.ModelConfig(num_embed=64, attention_types=kinds * 2, **plain, **_TINY)
    experts = qwen.ModelConfig(num_experts=8, num_experts_per_tok=2, **_THEIRS, **_TINY)
    return (
        _entry("Llama 3 8B", llama.Llama3, llama.ModelConfig(**_THEIRS, **_TINY), llama.ModelConfig.llama3p1_8b()),
        _entry("Llama 3 70B", llama.Llama3, llama.ModelConfig(**_THEIRS, **_TINY), llama.ModelConfig.llama3_70b()),
        _entry("Gemma 2B", gemma.Gemma, tiny_gemma, gemma.ModelConfig.gemma_2b(), attention_types=kinds),
        _entry("Qwen3 8B", qwen.Qwen3, qwen.ModelConfig(**_THEIRS, **_TINY), qwen.ModelConfig.qwen3_8b()),
        _entry("Qwen3 30B-A3B", qwen.Qwen3, experts, qwen.ModelConfig.qwen3_30b_a3b()),
    )
