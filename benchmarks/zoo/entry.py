"""An entry of the zoo: one model, tiny with values and at its real width as shapes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

Workload = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments: arrays where it is tiny, shapes where it is real."""


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        name: What it is called.
        package: Where it comes from.
        tiny: Workload of a size that a CPU runs; 8 devices can split its dims.
        real: Workload at its real width, with the given number of layers.
        donated: Arguments that are state.
    """

    name: str
    package: str
    tiny: Callable[[], Workload]
    real: Callable[[int], Workload]
    donated: tuple[int, ...] = ()


def shapes(tree: Any) -> Any:
    """Arrays as shapes."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
