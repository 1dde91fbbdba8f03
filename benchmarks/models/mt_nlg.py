"""Megatron-Turing NLG 530B: multihead attention, then a GELU MLP. Smith et al. 2022; biases are left out."""

from functools import partial

from benchmarks.models.config import Config, shrink
from benchmarks.models.workloads import Family

mt_nlg_530b = Config(
    layers=105,
    d_model=20480,
    d_ff=81920,
    heads=128,
    kv_heads=128,
    d_head=160,
    vocab=51200,
    block="serial",
    activation="gelu",
    norm="layernorm",
    positions="learned",
    tied=True,
)

FAMILY = Family({"tiny": shrink(mt_nlg_530b), "530b": mt_nlg_530b}, default="530b")
decode, prefill, train = FAMILY.decode, FAMILY.prefill, FAMILY.train

decode_530b = partial(decode, "530b", 128)
prefill_530b = partial(prefill, "530b")
train_530b = partial(train, "530b")
