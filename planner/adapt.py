"""Models that are objects, as functions of their arrays: what `autoshard` and `make_plan` take.

flax linen, haiku and transformers' Flax models are functions of their parameters already (`model.apply`). An equinox
module mixes arrays with functions and numbers, a flax nnx module keeps its arrays in variables:

    fun, arrays = planner.functional(model)
    y = planner.autoshard(fun, mesh=mesh)(arrays, x)  # instead of model(x)
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def functional(model: Any, call: Callable[..., Any] | None = None) -> tuple[Callable[..., Any], Any]:
    """A model as a function of its arrays and the model's arguments, and its arrays.

    Args:
        model: An equinox or flax nnx module, or any pytree; its arrays may be abstract (`jax.ShapeDtypeStruct`), as
            from `eqx.filter_eval_shape` or `nnx.eval_shape`.
        call: What to do with the model, by default `model(*args)`. To keep what an nnx module writes to its variables,
            return it: `lambda model, x: (model(x), nnx.state(model))`.

    Returns:
        `fun(arrays, *args)` and `arrays`, a pytree.
    """
    act = call or (lambda model, *args, **kwargs: model(*args, **kwargs))
    whole, arrays = _split_nnx(model) if _is_nnx(model) else _split(model)

    def fun(arrays: Any, *args: Any, **kwargs: Any) -> Any:
        return act(whole(arrays), *args, **kwargs)

    return fun, arrays


def _is_nnx(model: Any) -> bool:
    return any(t.__module__.startswith("flax.nnx") and t.__name__ == "Module" for t in type(model).__mro__)


def _split_nnx(model: Any) -> tuple[Callable[[Any], Any], Any]:
    from flax import nnx

    graph, state = nnx.split(model)
    return lambda arrays: nnx.merge(graph, arrays), state


def _split(model: Any) -> tuple[Callable[[Any], Any], Any]:
    """Arrays stay, everything else is put back when the model is called."""
    leaves, tree = jax.tree.flatten(model)
    arrays = tree.unflatten([x if _is_array(x) else None for x in leaves])

    def whole(arrays: Any) -> Any:
        given = iter(jax.tree.leaves(arrays))
        return tree.unflatten([next(given) if _is_array(x) else x for x in leaves])

    return whole, arrays


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic)
