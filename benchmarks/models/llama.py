"""Llama 3: grouped-query attention, then a SwiGLU MLP. Grattafiori et al. 2024, table 3."""

from dataclasses import replace
from functools import partial

from benchmarks.models.config import Config, shrink
from benchmarks.models.workloads import Family

llama_8b = Config(
    layers=32,
    d_model=4096,
    d_ff=14336,
    heads=32,
    kv_heads=8,
    d_head=128,
    vocab=128256,
    block="serial",
    activation="swiglu",
    norm="rmsnorm",
    positions="rotary",
    tied=False,
    theta=500_000.0,
)
llama_70b = replace(llama_8b, layers=80, d_model=8192, d_ff=28672, heads=64)
llama_405b = replace(llama_8b, layers=126, d_model=16384, d_ff=53248, heads=128)

FAMILY = Family({"tiny": shrink(llama_8b), "8b": llama_8b, "70b": llama_70b, "405b": llama_405b}, default="70b")
decode, prefill, train = FAMILY.decode, FAMILY.prefill, FAMILY.train

decode_8b = partial(decode, "8b")
decode_70b = partial(decode, "70b")
decode_405b = partial(decode, "405b")
prefill_8b = partial(prefill, "8b")
prefill_70b = partial(prefill, "70b")
prefill_405b = partial(prefill, "405b")
train_8b = partial(train, "8b")
train_70b = partial(train, "70b")
train_405b = partial(train, "405b")
