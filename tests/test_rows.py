"""passes.rows: a matmul with a second row is the same matmul."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from passes.rows import single_row, two_rows

CASES = [
    ((3, 64), (3, 48, 64), (((1,), (2,)), ((0,), (0,))), 0),
    ((3, 48, 64), (3, 64), (((2,), (1,)), ((0,), (0,))), 1),
    ((2, 5, 1, 64), (2, 64, 40, 5), (((3,), (1,)), ((0, 1), (0, 3))), 0),
    ((64,), (64, 32), (((0,), (0,)), ((), ())), 0),
    ((33, 2, 32), (1, 32), (((2,), (1,)), ((), ())), 1),
]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(("lhs", "rhs", "numbers", "single"), CASES)
def test_a_second_row_changes_nothing(lhs, rhs, numbers, single, dtype):
    assert single_row((lhs, rhs), numbers) == single
    xs = [jax.random.normal(jax.random.key(k), shape, dtype) for k, shape in enumerate((lhs, rhs))]
    params: dict[str, Any] = {"dimension_numbers": numbers, "precision": None, "preferred_element_type": jnp.float32}
    wanted, found = lax.dot_general(xs[0], xs[1], **params), two_rows(params, single)(xs[0], xs[1])
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("lhs", "rhs", "numbers"),
    [
        ((8, 64), (64, 64), (((1,), (0,)), ((), ()))),  # rows enough
        ((64,), (64, 8), (((0,), (0,)), ((), ()))),  # a small product
        ((64, 8), (64, 8, 64), (((1,), (1,)), ((0,), (0,)))),  # few summands
        ((64, 64), (64, 64), (((1,), (1,)), ((0,), (0,)))),  # a row on either side
    ],
)
def test_other_matmuls_are_left_alone(lhs, rhs, numbers):
    assert single_row((lhs, rhs), numbers) is None
