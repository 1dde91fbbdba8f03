"""`benchmarks.gpu` needs a GPU for its times, not for what it times: a ring's loop on one device."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu
from passes import matmul_reduce_scatter


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_every_way_of_a_ring_is_timed(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(gpu, "CALLS", 1)
    times = [seconds for pair in gpu.rings(16, 8, 8, steps) for seconds in pair]
    assert len(times) == 6 and all(map(math.isfinite, times))


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_a_device_alone_multiplies_every_chunk_once(steps: int) -> None:
    rows, w = jnp.arange(16.0)[:, None] * jnp.ones((16, 3)), jnp.ones((3, 2))
    with gpu.alone(steps, jnp.int32(1)):
        summed = matmul_reduce_scatter(rows, w, gpu.DOT, axis_name="x", scatter_dim=0)
    np.testing.assert_array_equal(summed, (rows @ w).reshape(steps, 16 // steps, 2).sum(0))
