"""The cost model: seconds of local work, and seconds of a collective. Any object with these two methods will do."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from planner.cost.collectives import COLLECTIVES, Groups, phases
from planner.cost.hardware import Chip

Array = np.ndarray


class CostModel(Protocol):
    """What the planner asks of a cost model. Arrays in, arrays out, elementwise.

    Attributes:
        launch: Seconds that any operation with a buffer of its own costs beside its work.

    One that has a true attribute `at_once` is asked for a gather or scatter of several dims as one collective
    (`planner.cost.paper`); others are asked for each that the program makes.
    """

    @property
    def launch(self) -> float: ...  # noqa: D102

    def compute(self, flops: Array, nbytes: Array, dtype: str) -> Array:
        """Seconds of `flops` on operands of a dtype while `nbytes` move to and from HBM."""
        ...

    def collective(self, kind: str, nbytes: Array, mask: Array) -> Array:
        """Seconds of a collective over the mesh axes in `mask`; `nbytes` as in `planner.cost.collectives`."""
        ...

    def ring(self, work: Array, again: Array, nbytes: Array, mask: Array) -> Array:
        """Seconds of a matmul in as many steps as `mask` has devices, while `nbytes` go around them.

        `work` is that of the matmul in one step, `again` the bytes that several steps move beyond it. Infinite where
        there are no such loops.
        """
        ...


@dataclass(frozen=True)
class Roofline:
    """max(FLOPs / rate, bytes / bandwidth) for local work, α–β for collectives; only a ring overlaps the two.

    Pope et al. 2022, section 2 (compute and memory time) and appendix A.1 (collectives).
    """

    chip: Chip
    groups: Groups

    @property
    def launch(self) -> float:
        """Seconds of overhead, the same for operations and collectives."""
        return self.chip.overhead

    def compute(self, flops: Array, nbytes: Array, dtype: str) -> Array:
        """Seconds of local work."""
        return np.maximum(flops / self.chip.rate(dtype), nbytes / (self.chip.hbm_share * self.chip.hbm_bandwidth))

    def collective(self, kind: str, nbytes: Array, mask: Array) -> Array:
        """Seconds of a collective; nothing for no axes. Each of its phases has to be launched.

        An all_to_all cuts one dim and joins another, so what it moves is read and written once more.
        """
        group = self.groups[mask]
        seconds = COLLECTIVES[kind](nbytes, group) + self.launch * phases(kind, group)
        return seconds + np.where(mask > 0, self._again(nbytes), 0.0) if kind == "all_to_all" else seconds

    def _again(self, nbytes: Array) -> Array:
        return 2 * nbytes / (self.chip.hbm_share * self.chip.hbm_bandwidth)

    def ring(self, work: Array, again: Array, nbytes: Array, mask: Array) -> Array:
        """Seconds of a matmul as the loops of `passes.ring` run it.

        Each of the `n` steps starts a product and a permute. Half of the chunks go each way, in turns: a chunk that
        takes longer than the product beside it holds up the next one of its kind, n // 2 times. Wang et al. 2023.
        What steps move again comes on top, at the memory's full rate: schedules compiled for a v4 cube take 0.6 to 0.9
        of that at 32,768 tokens of PaLM 540B and 1.2 to 1.5 at 512.
        """
        n = self.groups.size[mask]
        step = (work + again / self.chip.hbm_bandwidth) / n + 2 * self.launch
        send = nbytes / n / self.groups.ring[mask] + self.groups.ring_hop[mask] + self.launch
        return n * step + n // 2 * np.maximum(send - step, 0.0)
