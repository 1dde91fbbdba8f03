"""Rules by primitive name: append-only, filled when the families are imported."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
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
    rule_of, shapes = _RULES.get(name), (tuple(in_shapes), tuple(out_shapes))
    if rule_of is None:
        return None
    try:
        return _rule(rule_of, *shapes, tuple(params.items()))
    except TypeError:  # a parameter cannot be hashed
        return rule_of(*shapes, **params)


@lru_cache(maxsize=1 << 12)
def _rule(rule_of: RuleOf, in_shapes: Sequence[Shape], out_shapes: Sequence[Shape], params: Sequence) -> Rule:
    """Equal equations share their rule."""
    return rule_of(in_shapes, out_shapes, **dict(params))


def registered() -> tuple[str, ...]:
    """Names of all primitives that have a rule, sorted."""
    return tuple(sorted(_RULES))


def family(name: str) -> str:
    """The family of a primitive that has a rule: the module that registers it."""
    return _RULES[name].__module__.rpartition(".")[2]
