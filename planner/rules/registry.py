"""Rules by primitive name: append-only, filled when the families are imported."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from planner.rules.rule import Rule, RuleOf, Shape

_RULES: dict[str, RuleOf] = {}


def register(*names: str) -> Callable[[RuleOf], RuleOf]:
    """Make the decorated function the rule of primitives, by name: names survive JAX versions better than imports.

    Raises:
        ValueError: If a primitive has a rule already.
    """

    def keep(rule_of: RuleOf) -> RuleOf:
        if taken := [name for name in names if name in _RULES]:
            raise ValueError(f"primitives {taken} have a rule already; a rule is registered once")
        _RULES.update(dict.fromkeys(names, rule_of))
        return rule_of

    return keep


def rule_for(
    name: str, in_shapes: Sequence[Shape], out_shapes: Sequence[Shape], params: Mapping[str, Any]
) -> Rule | None:
    """The rule of one equation, or None where its primitive has none.

    Shapes are those of the equation's operands (literals too) and results; `params` are the equation's.
    """
    rule_of = _RULES.get(name)
    return None if rule_of is None else rule_of(tuple(in_shapes), tuple(out_shapes), **params)


def registered() -> tuple[str, ...]:
    """Names of all primitives that have a rule, sorted."""
    return tuple(sorted(_RULES))


def family(name: str) -> str:
    """The family of a primitive that has a rule: the module that registers it."""
    return _RULES[name].__module__.rpartition(".")[2]
