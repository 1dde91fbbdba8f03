"""The paper's own cost formula, so that its figures can be reproduced to the digit.

One scalar network bandwidth whatever axes a collective spans, no latency, no (K-1)/K, no padding; Pope et al. 2022,
sections 2 and 3.1 and appendix A.1. For TPU v4 the bandwidth is 270 GB/s, all six links of a chip one way.
"""

from dataclasses import dataclass, replace

import numpy as np

from planner.cost.hardware import Chip, Machine

Array = np.ndarray
BANDWIDTH = 270e9
TIMES = {"all_gather": 1, "reduce_scatter": 1, "all_reduce": 2, "all_to_all": 1, "permute": 1}


def unpadded(machine: Machine) -> Machine:
    """The machine as the paper counts: every buffer and matmul takes just what it holds, at the datasheet's rates."""
    return replace(
        machine, chip=replace(machine.chip, tile=(1, 1), mxu=1, flops_share=1.0, hbm_share=1.0, overhead=0.0)
    )


@dataclass(frozen=True)
class PaperFormula:
    """max(FLOPs / peak, bytes / HBM bandwidth) for local work, bytes / bandwidth for collectives.

    Attributes:
        at_once: The paper gathers a weight along both of its dims by one collective, and counts what arrives once.
    """

    chip: Chip
    bandwidth: float = BANDWIDTH
    launch: float = 0.0
    at_once: bool = True

    def compute(self, flops: Array, nbytes: Array, dtype: str) -> Array:
        """Seconds of local work; every FLOP at the bf16 rate, as in the paper's MFU."""
        return np.maximum(flops / self.chip.flops["bfloat16"], nbytes / self.chip.hbm_bandwidth)

    def collective(self, kind: str, nbytes: Array, mask: Array) -> Array:
        """Seconds of a collective: its volume over one scalar bandwidth."""
        return volume(kind, nbytes, mask) / self.bandwidth

    def ring(self, product: Array, fetch: Array, again: Array, nbytes: Array, mask: Array) -> Array:
        """The formula adds compute and communication up; what runs inside of a matmul is no part of it."""
        return np.full(np.shape(product), np.inf)


def volume(kind: str, nbytes: Array | float, mask: Array | int) -> Array:
    """Bytes that the paper counts for a collective: an all_reduce is a reduce_scatter and an all_gather."""
    return np.where(np.asarray(mask) > 0, TIMES[kind] * np.asarray(nbytes), 0.0)
