"""Evaluates a program while some of its values are pairs: values, and scales that belong to them.

A pair means `values * scales`. It stays a pair through whatever only moves elements, and on its way into loops and
branches:

    w = convert q * s;  v = transpose w;  y = dot x v     is walked as    q, s;  transpose q, transpose s;  dot(x, pair)

What a contraction does with a pair, and what becomes of it where anything else reads it, is for the walk's user to say.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.source_info_util import current_name_stack, user_context

from passes.jaxpr import bind, primitive_name
from passes.scan import counts


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """Values with scales: each of their dims is of the values' size, or of size 1 where the scales do not vary.

    There may be several scales: each is moved alike.
    """

    values: Array
    scales: tuple[Array, ...]
    name: Hashable = field(metadata={"static": True})


def values_of(x: Any, atom: Any) -> Array:
    """An array as it is; a pair's values in the dtype that the program has for it."""
    return x.values.astype(atom.aval.dtype) if isinstance(x, Pair) else x


def varies(scales: Array, dims: Iterable[int]) -> bool:
    """Whether scales differ along some of these dims."""
    return any(scales.shape[d] > 1 for d in dims)


class Walk(ABC):
    """Evaluates bodies of a program on arrays and pairs."""

    @abstractmethod
    def dot(self, eqn: Any, lhs: Any, rhs: Any) -> Array:
        """The result of a `dot_general` of which at least one operand is a pair."""

    @abstractmethod
    def plain(self, pair: Pair, dtype: Any, eqn: Any) -> Array:
        """One array for a pair that `eqn` cannot read as such; `eqn` is None where a body returns it."""

    def body(self, jaxpr: Any, *inputs: Any) -> list[Array]:
        """The results of a body, from its constants and inputs."""
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), inputs))
        for eqn in jaxpr.eqns:
            with _as_written(eqn):
                env.update(zip(eqn.outvars, self.equation(eqn, [_read(env, v) for v in eqn.invars])))
        return [self.array(_read(env, v), v, None) for v in jaxpr.outvars]

    def equation(self, eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
        """The results of one equation."""
        name = primitive_name(eqn)
        if not any(isinstance(x, Pair) for x in operands):
            return bind(eqn, *operands)
        if name in _INSIDE:
            return _INSIDE[name](self, eqn, operands)
        if name == "dot_general":
            return [self.dot(eqn, *operands)]
        if name in _MOVES and isinstance(operands[0], Pair) and jnp.issubdtype(eqn.outvars[0].aval.dtype, jnp.floating):
            return [_MOVES[name](eqn, *operands)]
        return bind(eqn, *map(self.array, operands, eqn.invars, [eqn] * len(operands)))

    def array(self, x: Any, atom: Any, eqn: Any) -> Any:
        """An array as it is, a pair made plain."""
        return self.plain(x, atom.aval.dtype, eqn) if isinstance(x, Pair) else x


def _read(env: Mapping[Any, Any], atom: Any) -> Any:
    return atom.val if hasattr(atom, "val") else env[atom]


@contextmanager
def _as_written(eqn: Any) -> Iterator[None]:
    """What is traced now seems to come from where the equation was made."""
    info = eqn.source_info
    with user_context(info.traceback, name_stack=current_name_stack() + info.name_stack), eqn.ctx.manager:
        yield


def _both(eqn: Any, pair: Pair) -> Pair:
    """The equation as it is, for values and scales alike."""
    return Pair(bind(eqn, pair.values)[0], tuple(bind(eqn, s)[0] for s in pair.scales), pair.name)


def _values(eqn: Any, pair: Pair) -> Pair:
    return Pair(bind(eqn, pair.values)[0], pair.scales, pair.name)


def _converted(eqn: Any, pair: Pair) -> Pair:
    """Whoever reads the values converts them to the dtype of the variable."""
    return pair


def _slice(eqn: Any, pair: Pair) -> Pair:
    start, limit, strides = (eqn.params[name] for name in ("start_indices", "limit_indices", "strides"))
    cuts = list(zip(start, limit, strides or (1,) * len(start)))

    def cut(scales: Array) -> Array:
        return lax.slice(scales, *zip(*(c if n > 1 else (0, 1, 1) for n, c in zip(scales.shape, cuts))))

    return Pair(bind(eqn, pair.values)[0], tuple(map(cut, pair.scales)), pair.name)


def _dynamic_slice(eqn: Any, pair: Pair, *start: Array) -> Pair:
    """A start beyond a dim of size 1 is clamped to it."""
    sizes = eqn.params["slice_sizes"]
    scales = (lax.dynamic_slice(s, start, list(map(min, s.shape, sizes))) for s in pair.scales)
    return Pair(bind(eqn, pair.values, *start)[0], tuple(scales), pair.name)


def _reshape(eqn: Any, pair: Pair) -> Pair:
    """Along dims that are merged or split together, scales vary all or not at all."""
    old, new = pair.values.shape, eqn.params["new_sizes"]
    shared = set(_offsets(old)) & set(_offsets(new))

    def groups(shape: Sequence[int]) -> list[int]:
        return [max(n for n in shared if n <= offset) for offset in _offsets(shape)]

    def fold(scales: Array) -> Array:
        varies = {g for g, n in zip(groups(old), scales.shape) if n > 1}
        before, after = ([n if g in varies else 1 for g, n in zip(groups(s), s)] for s in (old, new))
        return jnp.broadcast_to(scales, before).reshape(after)

    return Pair(bind(eqn, pair.values)[0], tuple(map(fold, pair.scales)), pair.name)


def _offsets(shape: Sequence[int]) -> list[int]:
    """How many blocks the dims before each one count."""
    return [prod(shape[:d]) for d in range(len(shape))]


_MOVES: Mapping[str, Callable[..., Pair]] = {
    "transpose": _both,
    "squeeze": _both,
    "copy": _values,
    "name": _values,
    "sharding_constraint": _values,
    "convert_element_type": _converted,
    "slice": _slice,
    "dynamic_slice": _dynamic_slice,
    "reshape": _reshape,
}


def _call(walk: Walk, eqn: Any, operands: Sequence[Any]) -> list[Array]:
    return _fun(walk, eqn.params["call_jaxpr" if "call_jaxpr" in eqn.params else "jaxpr"])(*operands)


def _remat(walk: Walk, eqn: Any, operands: Sequence[Any]) -> list[Array]:
    options = {name: eqn.params[name] for name in ("prevent_cse", "policy")}
    return jax.checkpoint(_fun(walk, eqn.params["jaxpr"]), **options)(*operands)


def _scan(walk: Walk, eqn: Any, operands: Sequence[Any]) -> list[Array]:
    held, carried = counts(eqn)
    one, first = _fun(walk, eqn.params["jaxpr"]), held + carried
    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}

    def step(carry: list[Any], xs: list[Any]) -> tuple[list[Array], list[Array]]:
        outs = one(*operands[:held], *carry, *xs)
        return outs[:carried], outs[carried:]

    start = map(walk.array, operands[held:first], eqn.invars[held:first], [eqn] * carried)
    carry, stacks = lax.scan(step, list(start), list(map(_stacked, operands[first:])), **options)
    return [*carry, *stacks]


def _stacked(x: Any) -> Any:
    """Scales of every step, also where they are those of all steps."""
    if not isinstance(x, Pair):
        return x
    scales = (jnp.broadcast_to(s, (x.values.shape[0], *s.shape[1:])) for s in x.scales)
    return Pair(x.values, tuple(scales), x.name)


def _cond(walk: Walk, eqn: Any, operands: Sequence[Any]) -> list[Array]:
    return lax.switch(operands[0], [_fun(walk, body) for body in eqn.params["branches"]], *operands[1:])


def _while(walk: Walk, eqn: Any, operands: Sequence[Any]) -> list[Array]:
    tested, held = eqn.params["cond_nconsts"], eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    test, step = (_fun(walk, eqn.params[key]) for key in ("cond_jaxpr", "body_jaxpr"))
    start = list(map(walk.array, operands[held:], eqn.invars[held:], [eqn] * (len(operands) - held)))
    return lax.while_loop(
        lambda carry: test(*operands[:tested], *carry)[0], lambda carry: step(*operands[tested:held], *carry), start
    )


def _fun(walk: Walk, body: Any) -> Callable[..., list[Array]]:
    """A body, open or closed, as a function of its inputs."""
    return partial(walk.body, getattr(body, "jaxpr", body), *getattr(body, "consts", ()))


_INSIDE: Mapping[str, Callable[..., list[Array]]] = {
    "jit": _call,
    "closed_call": _call,
    "remat2": _remat,
    "checkpoint": _remat,
    "scan": _scan,
    "cond": _cond,
    "while": _while,
}
