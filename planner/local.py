"""Seconds of what one device does under each strategy of an operation, and of a ring with the collective beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from planner.cost.hardware import Chip
from planner.cost.model import CostModel
from planner.graph import Node
from planner.strategy import NO_RING, Strategies
from planner.work import (
    Read,
    compute_dtype,
    fetched_bytes,
    local_flops,
    moved_bytes,
    ring_steps,
    summed_bytes,
    travelling_bytes,
)

Array = np.ndarray
TINY = 1e-12  # seconds


@dataclass(frozen=True)
class Local:
    """An operation, what its operands are, and which results go to HBM."""

    node: Node
    operands: Mapping[int, Read]
    kept: Sequence[bool]
    model: CostModel
    chip: Chip

    def worthwhile(self, s: Strategies, worth: float) -> tuple[Strategies, Array]:
        """Strategies and seconds of one trip, without rings that take more than that share of what they replace."""
        seconds, apart = self._priced(s)
        keep = (s.rings[:, 0] == NO_RING) | (seconds <= worth * np.maximum(apart, TINY))
        return (s, seconds) if keep.all() else (s.keep(keep), seconds[keep])

    def _priced(self, s: Strategies) -> tuple[Array, Array]:
        """Seconds of one trip, and what rings compete with: the same matmul, and its collective after or before it."""
        near, ringed = fetched_bytes(self.operands, s, self.chip), s.rings[:, 0] != NO_RING
        seconds, launch = self._work(s, near), self.model.launch if any(self.kept) else 0.0
        if not ringed.any():
            return seconds + launch, seconds
        nbytes, mask = travelling_bytes(self.node, self.operands, s), np.where(ringed, s.rings[:, 2], 0)
        plain = replace(s, rings=np.full_like(s.rings, NO_RING))
        alone = self._work(plain)
        fetch = alone - self._work(plain, near) if near.any() else np.zeros(len(s))
        ring = self.model.ring(seconds, fetch, summed_bytes(self.node, s), nbytes, mask)
        apart = alone + launch + self.model.collective("all_gather", nbytes, mask)
        return np.where(ringed, ring, seconds + launch), apart

    def _work(self, s: Strategies, near: Array | float = 0.0) -> Array:
        """Seconds of one trip without its launch, or of one step of a ring, with so many bytes on chip before."""
        once = np.asarray(near) > 0
        nbytes = moved_bytes(self.node, self.operands, self.kept, s, near=once)
        if self.node.rule.fusible:  # the vector unit takes as long for words at the memory's full rate
            words = moved_bytes(self.node, self.operands, self.kept, s, self.chip.word)
            nbytes = np.maximum(nbytes, self.chip.hbm_share * words)
        dtype, steps = compute_dtype(self.node, self.operands), ring_steps(s)
        flops = local_flops(self.node.rule, s, self.chip, once) * self.chip.times(dtype, self.node.rule.precision)
        return self.model.compute(flops / steps, (nbytes - near) / steps, dtype)
