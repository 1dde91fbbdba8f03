"""Puts the body of a call in its place.

    {x. y = jit[{a. b = sin a; c = mul b 2.0} returning c] x}          becomes          {x. b = sin x; y = mul b 2.0}

Only `jit` and `closed_call` are calls in this sense. `scan`, `while`, `cond` and `remat2` mean more than their body,
and `custom_jvp_call` and `custom_vjp_call` carry the user's derivative. Shardings that a nested `jit` asks for become
constraints. Paths change: take them from the inlined program.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Sharding

from passes import jaxpr


def inline(closed: Any) -> Any:
    """The program without calls, at any depth; itself if there are none."""
    return jaxpr.rewrite(closed, lambda path, eqn: _body(eqn))


def _body(eqn: Any) -> Any:
    if jaxpr.primitive_name(eqn) == "closed_call":
        return eqn.params["call_jaxpr"]
    if jaxpr.primitive_name(eqn) != "jit":
        return None
    body, ins, outs = (eqn.params[name] for name in ("jaxpr", "in_shardings", "out_shardings"))
    if not any(isinstance(sharding, Sharding) for sharding in (*ins, *outs)):
        return body
    return lambda *xs: _put(jaxpr.as_fun(body)(*_put(xs, ins)), outs)


def _put(xs: Sequence[Any], shardings: Sequence[Any]) -> list[Any]:
    pairs = zip(xs, shardings)
    return [jax.lax.with_sharding_constraint(x, s) if isinstance(s, Sharding) else x for x, s in pairs]
