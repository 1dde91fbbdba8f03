"""Primitives that meshplan has never heard of, as other people's packages bring them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import mlir


def primitive(name: str, fun: Callable[..., Any] | None = None) -> Primitive:
    """A primitive of one operand and one result of its type; without `fun` nothing lowers it."""
    made = Primitive(name)
    made.def_abstract_eval(lambda x: x)
    if fun is not None:
        mlir.register_lowering(made, mlir.lower_fun(fun, multiple_results=False))
    return made


smoothed, mystery = primitive("smoothed", jax.nn.softmax), primitive("mystery")
