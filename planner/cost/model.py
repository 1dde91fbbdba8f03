"""The cost model: seconds of local work, and seconds of a collective. Any object with these two methods will do."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from planner.cost.collectives import COLLECTIVES, Groups, phases
from planner.cost.hardware import Chip

Array = np.ndarray
RELAID = 6
"""Reads and writes around an all_to_all: libtpu 0.0.42 copies before and behind it, and a copy takes as long as 2.8 to
3.8 of them. Compiled beside matmuls of Llama 3 70B: 5.2 to 8.8 on v4, 5.8 to 7.8 on v5p, 3 to 6 on v5e."""


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

    def ring(self, product: Array, fetch: Array, again: Array, nbytes: Array, mask: Array) -> Array:
        """Seconds of a matmul in as many steps as `mask` has devices, while `nbytes` go around them.

        `product` are the seconds of one step's product, `fetch` those of what is on chip before the first, `again` the
        bytes that sums of several steps move beside them. Infinite where there are no such loops.
        """
        ...


@dataclass(frozen=True)
class Roofline:
    """The root of (FLOPs / rate)² + (bytes / bandwidth)² for local work, α–β for collectives; a ring overlaps the two.

    Pope et al. 2022, section 2 (compute and memory time) and appendix A.1 (collectives). There the larger of compute
    and memory time counts; matmuls in which both are alike take longer, as measured on one H200 (`benchmarks/gpu.py`)
    and as libtpu estimates them (`benchmarks/rates.py`).

    Attributes:
        relaid: How many times what an all_to_all moves is read or written beside it; none in the schedule of a compiled
            program, whose copies have times of their own.
    """

    chip: Chip
    groups: Groups
    relaid: float = RELAID

    @property
    def launch(self) -> float:
        """Seconds of overhead, the same for operations and collectives."""
        return self.chip.overhead

    def compute(self, flops: Array, nbytes: Array, dtype: str) -> Array:
        """Seconds of local work."""
        return np.hypot(flops / self.chip.rate(dtype), nbytes / (self.chip.hbm_share * self.chip.hbm_bandwidth))

    def collective(self, kind: str, nbytes: Array, mask: Array) -> Array:
        """Seconds of a collective; nothing for no axes. Each of its phases has to be launched.

        An all_to_all cuts one dim and joins another, so what it moves is laid out anew before and behind it.
        """
        group = self.groups[mask]
        seconds = COLLECTIVES[kind](nbytes, group) + self.launch * phases(kind, group)
        return seconds + np.where(mask > 0, self._again(nbytes), 0.0) if kind == "all_to_all" else seconds

    def _again(self, nbytes: Array) -> Array:
        return self.relaid * nbytes / (self.chip.hbm_share * self.chip.hbm_bandwidth)

    def ring(self, product: Array, fetch: Array, again: Array, nbytes: Array, mask: Array) -> Array:
        """Seconds of a matmul as the loops of `passes.ring` run it.

        Each of the `n` steps starts a product, and a permute beside it; half of the chunks go each way. A chunk that
        takes longer than the product beside it holds up the next one of its kind, n // 2 times, as both ways have
        wires of their own; where they take turns every chunk holds up the next. Wang et al. 2023. What is fetched
        before the first product hides nothing, and what sums move comes on top, at the memory's full rate, as schedules
        compiled for v4, v5e and v5p have it.
        """
        n, turns = self.groups.size[mask], self.groups.ring_turns[mask]
        send = nbytes / n / (turns * self.groups.ring[mask]) + self.groups.ring_hop[mask] + self.launch
        step = product + self.launch
        waits = np.where(turns > 1, n - 1, n // 2) * np.maximum(send - step, 0.0)
        return fetch + n * step + waits + again / self.chip.hbm_bandwidth
