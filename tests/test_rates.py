"""The fit of a chip's rates to single matmuls."""

import pytest

from benchmarks.rates import MATMULS, fit, predicted
from planner import PRESETS

V5E = PRESETS["tpu-v5e"].chip


@pytest.mark.parametrize("shares", [(0.7, 0.85), (0.95, 0.6)])
def test_a_fit_finds_the_shares_that_made_the_times(shares):
    assert fit(V5E, {case: predicted(V5E, shares, case) for case in MATMULS}) == shares


def test_a_matmul_takes_longer_than_its_flops_and_than_its_bytes():
    m, k, n = case = (512, 8192, 8192)
    flops, read = 2 * m * k * n / V5E.flops["bfloat16"], 2 * (m * k + k * n + m * n) / V5E.hbm_bandwidth
    assert predicted(V5E, (1.0, 1.0), case) == pytest.approx((flops**2 + read**2) ** 0.5)
