"""Which values of a program may be open sums, before there is a graph: the terms that are best added first."""

from collections.abc import Set as AbstractSet
from typing import Any

import jax.numpy as jnp

from planner.rules import Rule, rule_for


def open_values(body: Any) -> AbstractSet[Any]:
    """Results of a body's equations that may be open sums: each device holds a summand.

    Those are sums over a factor that may be split, and what linear operations make of them. Two of them added while
    they are open need one reduction together; added to something else first, each needs its own.
    """
    found: set[Any] = set()
    for eqn in body.eqns:
        rule = _rule(eqn) if all(_rounds(v) for v in eqn.outvars) else None
        if rule is not None and (rule.sums() or _passes(rule, eqn, found)):
            found.update(eqn.outvars)
    return found


def _rounds(v: Any) -> bool:
    return jnp.issubdtype(getattr(v.aval, "dtype", int), jnp.inexact)


def _rule(eqn: Any) -> Rule | None:
    ins, outs = ([getattr(v.aval, "shape", ()) for v in atoms] for atoms in (eqn.invars, eqn.outvars))
    return rule_for(eqn.primitive.name, ins, outs, eqn.params)


def _passes(rule: Rule, eqn: Any, found: AbstractSet[Any]) -> bool:
    """Whether it is linear in operands that may be open."""
    operands = [not hasattr(v, "val") and v in found for v in eqn.invars]
    return rule.fusible and any(all(operands[i] for i in group) for group in rule.linear)
