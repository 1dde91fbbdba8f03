"""What each term of the cost model buys: the same predictions without it, constants unchanged."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.paper.latency import POINTS, TABLE2, errors, full
from planner.cost.collectives import groups
from planner.cost.hardware import PRESETS, Machine
from planner.cost.model import Roofline
from planner.stages import Setting

Array = np.ndarray


class Apart(Roofline):
    """Nothing overlaps."""

    def ring(self, product: Array, fetch: Array, again: Array, nbytes: Array, mask: Array) -> Array:
        """No loops."""
        return np.full(np.shape(product), np.inf)


def _apart(machine: Machine) -> Setting:
    setting = full(machine)
    return replace(setting, prices=Apart(machine.chip, groups(machine.links(setting.mesh))))


def _chip(machine: Machine, **fields: float) -> Setting:
    return full(replace(machine, chip=replace(machine.chip, **fields)))


VARIANTS: Mapping[str, Callable[[Machine], Setting]] = {
    "the full model": full,
    "without rings: no collective runs inside of a matmul": _apart,
    "without launches: operations and collectives start for nothing": lambda m: _chip(m, overhead=0.0),
    "all links for every gather, not one ring": lambda m: full(replace(m, fabric=replace(m.fabric, one_ring=False))),
    "without tiles and padding": lambda m: full(replace(m, chip=replace(m.chip, tile=(1, 1), mxu=1))),
    "at the datasheet's rates": lambda m: _chip(m, flops_share=1.0, hbm_share=1.0),
}


@dataclass(frozen=True)
class Without:
    """Signed errors of the points of figure 1 and table 2 under a variant of the model."""

    name: str
    errors: tuple[float, ...]


def terms() -> Iterator[Without]:
    """All variants."""
    for name, setting in VARIANTS.items():
        yield Without(name, tuple(errors((*POINTS, *TABLE2), setting(PRESETS["tpu-v4"]))))
