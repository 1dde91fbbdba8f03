"""Devices that say where they stand, and what the cost model asks of a Mesh of them."""

from types import SimpleNamespace
from typing import Any

import numpy as np


def device(coords: tuple[int, ...], platform: str = "tpu", kind: str = "TPU v4", **more: Any) -> Any:
    return SimpleNamespace(coords=coords, platform=platform, device_kind=kind, **more)


def torus(*sizes: int, **more: Any) -> np.ndarray:
    """Devices at every point of a torus, in an array of its shape."""
    found = np.empty(sizes, object)
    for at in np.ndindex(*sizes):
        found[at] = device(at, **more)
    return found


def slices(count: int, *sizes: int) -> np.ndarray:
    """Several such tori, each with a number, along a first axis."""
    return np.stack([torus(*sizes, slice_index=i) for i in range(count)])


def mesh(devices: np.ndarray, names: str = "abcdef") -> Any:
    return SimpleNamespace(devices=devices, shape=dict(zip(names, devices.shape)))
