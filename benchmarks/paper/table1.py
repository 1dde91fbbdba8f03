"""Table 1: the longest context of PaLM 540B on 64 chips when 30 % of memory holds the KV cache.

The bytes are those that the planner counts for a cache of that shape in that spec, without tile padding, as in the
paper.
"""

from dataclasses import dataclass

import numpy as np

from planner.cost.hardware import PRESETS
from planner.cost.paper import unpadded
from planner.graph import Aval
from planner.sharding import MeshShape
from planner.work import held_bytes

LAYERS, CHIPS, SHARE = 118, 64, 0.3
MESH = MeshShape(("x", "y", "z"), (4, 4, 4))
ALL = MESH.mask(MESH.names)


@dataclass(frozen=True)
class Variant:
    """A kind of attention: the cache's shape beyond layers, batch and length, and which dim all axes split."""

    name: str
    heads: tuple[int, ...]
    split: int | None
    paper: dict[int, int]


VARIANTS = (
    Variant("multihead, d_head 128", (64, 128), 3, {128: 1320, 512: 330}),
    Variant("multiquery, head-sharded", (256,), None, {128: 660, 512: 165}),
    Variant("multiquery, batch-sharded", (256,), 1, {128: 43000, 512: 10700}),
)


def longest_context(variant: Variant, batch: int) -> float:
    """Tokens per sequence that fit."""
    chip = unpadded(PRESETS["tpu-v4"]).chip
    shape = (LAYERS, batch, 1, *variant.heads)
    layout = np.zeros((1, len(shape) + 1), int)
    if variant.split is not None:
        layout[0, variant.split] = ALL
    token = 2 * float(held_bytes(Aval(shape, "bfloat16", 2), layout, chip, MESH, "input")[0])
    return SHARE * chip.hbm_bytes / token
