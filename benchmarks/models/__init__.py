"""Models as pure functions on abstract arrays: PaLM, Llama 3 and MT-NLG at real sizes and tiny, and one small model of
every other kind.

A **workload** is a callable without arguments that returns `(fun, abstract_args)`: nothing is allocated until
somebody asks for it. `benchmarks.models.palm.decode_540b_b512` is one.
"""

from collections.abc import Callable
from functools import partial

from benchmarks.models import encoder_decoder, moe, state_space, unet, vit
from benchmarks.models import llama as llama
from benchmarks.models import mt_nlg as mt_nlg
from benchmarks.models import palm as palm
from benchmarks.models.config import Config as Config
from benchmarks.models.small import Small as Small
from benchmarks.models.weights import init as init
from benchmarks.models.workloads import Family as Family
from benchmarks.models.workloads import materialise as materialise

FAMILIES = {"palm": palm.FAMILY, "llama": llama.FAMILY, "mt_nlg": mt_nlg.FAMILY}

SMALL: dict[str, tuple[Callable[[], Small], Callable[[], Small]]] = {
    "MoE, dense": (partial(moe.tiny, "dense"), partial(moe.base, "dense")),
    "MoE, ragged": (partial(moe.tiny, "ragged"), partial(moe.base, "ragged")),
    "U-Net": (unet.tiny, unet.base),
    "ViT": (vit.tiny, vit.base),
    "encoder-decoder": (encoder_decoder.tiny, encoder_decoder.base),
    "state space": (state_space.tiny, state_space.base),
}
"""Small models by kind: tiny, for a CPU, and at a size that somebody trains."""


def tiny(family: str) -> Config:
    """Sizes of "palm", "llama" or "mt_nlg" for a CPU: float32, and 8 devices can split every dim."""
    return FAMILIES[family].config("tiny")
