"""FLOPs of a jaxpr as it stands, without a graph: of kernels, of the user's own regions, of branches to compare."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from passes.jaxpr import subjaxprs
from planner.rules import rule_for
from planner.rules.opaque import MANUAL, UNKNOWN


def flops(jaxpr: Any) -> float:
    """FLOPs of one run: loops by their trips where they are known, of branches the costliest."""
    return sum(map(_equation, jaxpr.eqns))


def _equation(eqn: Any) -> float:
    inside = [flops(body) for _, body in subjaxprs(eqn)]
    if eqn.primitive.name == "pallas_call":
        return kernel(eqn.params)
    if eqn.primitive.name == "cond":
        return max(inside)
    if inside and eqn.primitive.name not in ("reduce", "sort"):
        return sum(inside) * eqn.params.get("length", 1)
    return _operation(eqn.primitive.name, shapes(eqn.invars), shapes(eqn.outvars), eqn.params)


def shapes(atoms: Sequence[Any]) -> list[tuple[int, ...]]:
    """Shapes of the values that have one."""
    return [tuple(getattr(v.aval, "shape", ())) for v in atoms]


def _operation(name: str, ins: Sequence[Any], outs: Sequence[Any], params: Mapping[str, Any]) -> float:
    if name in MANUAL:
        return float(sum(map(prod, ins)))  # a combination for each element; what is moved is no work
    try:
        rule = rule_for(name, ins, outs, params)
    except (TypeError, ValueError):  # shapes of a kernel's references are not those that the rule was written for
        rule = None
    return rule.flops * prod(map(float, rule.sizes)) if rule else UNKNOWN * sum(map(prod, (*ins, *outs)))


def kernel(params: Mapping[str, Any]) -> float:
    """FLOPs of a Pallas kernel: what its author says of it, else those of its body at each point of the grid."""
    estimate = params.get("cost_estimate")
    if estimate is not None:
        return float(estimate.flops + UNKNOWN * estimate.transcendentals)
    grid = [n for n in params["grid_mapping"].grid if isinstance(n, int)]
    return flops(params["jaxpr"]) * prod(grid)
