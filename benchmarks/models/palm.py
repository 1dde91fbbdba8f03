"""PaLM: multiquery attention beside a SwiGLU MLP in one parallel block. Chowdhery et al. 2022.

Pope et al. 2022 pad the 48 heads of the 540B model to 64, so that 64 chips can share them, which adds 18B
parameters: that is "540b" here. Scores are stored in bf16, as T5X does by default (`float32_logits=False`).
"""

from dataclasses import replace
from functools import partial

from benchmarks.models.config import Config, shrink
from benchmarks.models.workloads import Family

palm_8b = Config(
    layers=32,
    d_model=4096,
    d_ff=16384,
    heads=16,
    kv_heads=1,
    d_head=256,
    vocab=256128,
    block="parallel",
    activation="swiglu",
    norm="layernorm",
    positions="rotary",
    tied=True,
    float32_scores=False,
)
palm_62b = replace(palm_8b, layers=64, d_model=8192, d_ff=32768, heads=32)
palm_540b = replace(palm_8b, layers=118, d_model=18432, d_ff=73728, heads=64)
palm_540b_unpadded = replace(palm_540b, heads=48)

FAMILY = Family(
    {
        "tiny": shrink(palm_8b),
        "8b": palm_8b,
        "62b": palm_62b,
        "540b": palm_540b,
        "540b_unpadded": palm_540b_unpadded,
    },
    default="540b",
)
decode, prefill, train = FAMILY.decode, FAMILY.prefill, FAMILY.train

decode_8b = partial(decode, "8b")
decode_62b = partial(decode, "62b")
decode_540b_b64 = partial(decode, "540b", 64)
decode_540b_b512 = partial(decode, "540b", 512)
prefill_8b = partial(prefill, "8b")
prefill_62b = partial(prefill, "62b")
prefill_540b_b1 = partial(prefill, "540b", 1)
prefill_540b_b512 = partial(prefill, "540b", 512)
train_8b = partial(train, "8b")
train_62b = partial(train, "62b")
train_540b = partial(train, "540b")
