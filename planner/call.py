"""A call's arguments: which are static, and in which order the program takes the rest."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Static:
    """Static arguments, by position and by name."""

    positions: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Call:
    """Arguments by position as far as the signature allows, the others by name; defaults left out, as JAX does."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    static: Static

    @property
    def dynamic(self) -> tuple[Any, ...]:
        """Arguments that hold arrays: by position, then by name, sorted as JAX flattens a dict."""
        named = [self.kwargs[name] for name in sorted(self.kwargs) if name not in self.static.names]
        return (*(x for i, x in enumerate(self.args) if i not in self.static.positions), *named)

    @property
    def statics(self) -> tuple[Any, ...]:
        """What tells calls with equal arrays apart: static values, and which arguments came by name."""
        named = [(k, v if k in self.static.names else None) for k, v in sorted(self.kwargs.items())]
        return (*(x for i, x in enumerate(self.args) if i in self.static.positions), *named)


def call_of(fun: Callable, static: Static, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """The arguments of a call of `fun`, however they were given."""
    if not kwargs:
        return Call(tuple(args), {}, static)
    bound = inspect.signature(fun).bind(*args, **kwargs)
    return Call(bound.args, bound.kwargs, static)


def static_of(fun: Callable, options: Mapping[str, Any]) -> Static:
    """The static arguments that `static_argnums` and `static_argnames` of `jax.jit` mean, one by the other."""
    nums, names = options.get("static_argnums", ()), options.get("static_argnames", ())
    nums = {nums} if isinstance(nums, int) else set(nums)
    names = {names} if isinstance(names, str) else set(names)
    if not nums and not names:
        return Static()
    parameters = inspect.signature(fun).parameters
    positional = [name for name, p in parameters.items() if p.kind in POSITIONAL]
    positions = {n if n >= 0 else n + len(parameters) for n in nums}
    positions |= {i for i, name in enumerate(positional) if name in names}
    return Static(frozenset(positions), frozenset(names | {positional[i] for i in positions if i < len(positional)}))
