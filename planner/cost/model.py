"""The cost model: seconds of local work, and seconds of a collective. Any object with these two methods will do."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from planner.cost.collectives import COLLECTIVES, Groups
from planner.cost.hardware import Chip

Array = np.ndarray


class CostModel(Protocol):
    """What the planner asks of a cost model. Arrays in, arrays out, elementwise."""

    def compute(self, flops: Array, nbytes: Array, dtype: str) -> Array:
        """Seconds of `flops` on operands of a dtype while `nbytes` move to and from HBM."""
        ...

    def collective(self, kind: str, nbytes: Array, mask: Array) -> Array:
        """Seconds of a collective over the mesh axes in `mask`; `nbytes` as in `planner.cost.collectives`."""
        ...


@dataclass(frozen=True)
class Roofline:
    """max(FLOPs / rate, bytes / bandwidth) for local work, α–β for collectives, nothing overlapped.

    Pope et al. 2022, section 2 (compute and memory time) and appendix A.1 (collectives).
    """

    chip: Chip
    groups: Groups

    def compute(self, flops: Array, nbytes: Array, dtype: str) -> Array:
        """Seconds of local work."""
        return np.maximum(flops / self.chip.rate(dtype), nbytes / (self.chip.hbm_share * self.chip.hbm_bandwidth))

    def collective(self, kind: str, nbytes: Array, mask: Array) -> Array:
        """Seconds of a collective; nothing for no axes. An all_reduce has the two phases of its halves."""
        phases = (2 if kind == "all_reduce" else 1) * (np.asarray(mask) > 0)
        return COLLECTIVES[kind](nbytes, self.groups[mask]) + self.chip.overhead * phases
