"""Equations of a program with the values that flow through them, and claims about them put to the test."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from planner.rules import Rule, rule_for

CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "remat2": "jaxpr"}
MESH = jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # gone since
    QUICK["xla_cpu_use_fusion_emitters"] = False


class Equation(NamedTuple):
    bind: Callable[..., Any]
    name: str
    params: dict[str, Any]
    operands: list[Any]
    results: list[Any]

    def rule(self) -> Rule:
        shapes = [x.shape for x in self.operands], [x.shape for x in self.results]
        rule = rule_for(self.name, *shapes, self.params)
        assert rule is not None, f"{self.name} has no rule"
        return rule

    def identity(self) -> str:
        """Equal for equations that differ in nothing but their values."""
        avals = [(x.shape, str(x.dtype)) for x in self.operands]
        return f"{self.name} {avals} {sorted((k, str(v)) for k, v in self.params.items())}"


Claims = Iterable[tuple[str, list[Any]]]
"""What the results are said to be, and how they were computed."""


def equations(fun: Callable[..., Any], *args: Any) -> list[Equation]:
    """The equations that `fun(*args)` computes, calls inlined. May be traced."""
    closed = jax.make_jaxpr(fun)(*args)
    found: list[Equation] = []
    _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args), found)
    return found


def _evaluate(jaxpr: Any, consts: Any, args: Any, found: list[Equation]) -> list[Any]:
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        operands = [np.asarray(v.val) if hasattr(v, "val") else env[v] for v in eqn.invars]
        env.update(zip(eqn.outvars, _results(eqn, operands, found), strict=True))
    return [v.val if hasattr(v, "val") else env[v] for v in jaxpr.outvars]


def _results(eqn: Any, operands: list[Any], found: list[Equation]) -> list[Any]:
    name, params, bind = eqn.primitive.name, eqn.params, eqn.primitive.bind
    if name in CALLS:
        body = params[CALLS[name]]
        return _evaluate(getattr(body, "jaxpr", body), getattr(body, "consts", ()), operands, found)
    out = bind(*operands, **params)
    results = list(out) if eqn.primitive.multiple_results else [out]
    found.append(Equation(bind, name, params, operands, results))
    return results


def primitives(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr at any depth, those with bodies too."""
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for body in value if isinstance(value, tuple) else (value,):
                if hasattr(inner := getattr(body, "jaxpr", body), "eqns"):
                    yield from primitives(inner)


def check(equations_of: Callable[..., list[Equation]], claims_of: Callable[[Equation], Claims], *args: Any) -> int:
    """Test all claims of all equations in one compiled program (compilation takes the time), and count them."""
    whats: list[list[str]] = []

    def run(*args: Any) -> Any:
        found = [_pinned(equation) for equation in equations_of(*args)]
        told = [list(claims_of(equation)) for equation in found]
        whats.extend([f"{e.identity()}: {what}" for what, _ in claims] for e, claims in zip(found, told))
        return [(e.results, [computed for _, computed in claims]) for e, claims in zip(found, told)]

    compiled = jax.jit(run, compiler_options=QUICK)
    for what, (expected, computed) in zip(whats, compiled(*args)):
        for each in zip(what, computed, strict=True):
            _same(*each, expected)
    return sum(map(len, whats))


def _pinned(equation: Equation) -> Equation:
    """With whole operands and results: the specs of shards must not spread to what they are compared with."""
    whole = NamedSharding(MESH, PartitionSpec())
    pin = partial(jax.lax.with_sharding_constraint, shardings=whole)
    return equation._replace(operands=[*map(pin, equation.operands)], results=[*map(pin, equation.results)])


def _same(what: str, computed: Any, expected: Any) -> None:
    for a, b in zip(expected, computed, strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert a.shape == b.shape, what
        tolerance = 0.04 if a.dtype == jnp.bfloat16 else 3e-5
        a, b = (np.asarray(v, np.float32 if v.dtype == jnp.bfloat16 else None) for v in (a, b))
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance, err_msg=what)
