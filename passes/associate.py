"""Adds some terms of a sum to each other before the others are added to them.

    {r. a = dot_general …; s = add r a; b = dot_general …; t = add s b}          with a and b first becomes
    {r. a = dot_general …; b = dot_general …; s = add a b; t = add s r}

A term is what a tree of `add`s ends in; a sum that something else reads too is a term. As many equations as before,
each at the place of one of them and as early as both its operands are there. Results differ by rounding only.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import jax.numpy as jnp

from passes import jaxpr

First = Callable[[Any], AbstractSet[Any]]
ADDS = ("add", "add_any")
KEPT = ("shard_map", "pallas_call")


def associate(closed: Any, first: First) -> Any:
    """The program with terms of sums that come first put first; itself if they are there already.

    Args:
        closed: The program.
        first: Of a body, the values that are to be added to each other first. Asked only where there is a sum of
            three terms or more; never of what is inside of a `shard_map` or a kernel.
    """
    return jaxpr.map_bodies(closed, lambda path, body: body if _kept(closed, path) else _associated(body, first))


def _kept(closed: Any, path: jaxpr.Path) -> bool:
    return any(jaxpr.primitive_name(eqn) in KEPT for eqn in jaxpr.enclosing(closed, (*path, 0)))


def _associated(body: Any, first: First) -> Any:
    sums = [places for places in _sums(body) if len(places) > 1]
    chosen = first(body) if sums else frozenset()
    born = {v: i for i, eqn in enumerate(body.eqns) for v in eqn.outvars} if chosen else {}
    moved = {}
    for places in sums if chosen else ():
        moved |= _reordered(body, places, chosen, born)
    if not moved:
        return body
    return jaxpr.with_eqns(body, [new for i, eqn in enumerate(body.eqns) for new in moved.get(i, [eqn])])


def _sums(body: Any) -> list[list[int]]:
    """The equations of each tree of additions, in order; the last is its root."""
    reads = Counter(jaxpr.variables([v for eqn in body.eqns for v in eqn.invars] + list(body.outvars)))
    trees: dict[Any, list[int]] = {}
    for i, eqn in enumerate(body.eqns):
        if _adds(eqn):
            inner = dict.fromkeys(v for v in jaxpr.variables(eqn.invars) if v in trees and reads[v] == 1)
            trees[eqn.outvars[0]] = sorted([i, *(k for v in inner for k in trees.pop(v))])
    return list(trees.values())


def _adds(eqn: Any) -> bool:
    """Whether it is a plain sum of two floats of one type, and not of a scalar that it broadcasts."""
    if jaxpr.primitive_name(eqn) not in ADDS or not jaxpr.is_plain(eqn):
        return False
    aval = eqn.outvars[0].aval
    return jnp.issubdtype(aval.dtype, jnp.inexact) and all(v.aval == aval for v in eqn.invars)


def _reordered(
    body: Any, places: Sequence[int], first: AbstractSet[Any], born: Mapping[Any, int]
) -> dict[int, list[Any]]:
    """The equations in the place of each of a tree's; none if its terms are in order."""
    made = [body.eqns[i].outvars[0] for i in places]
    inner = set(made)
    terms = [v for i in places for v in body.eqns[i].invars if not _in(v, inner)]
    early = [_in(v, first) for v in terms]
    if sum(early) < 2 or all(early):
        return {}
    births = [born.get(v, -1) if jaxpr.variables([v]) else -1 for v in terms]
    waiting, sums, found = list(zip(births, early, terms)), {True: [], False: []}, {}
    for i in places:
        ready = [term for term in waiting if term[0] < i]
        waiting = [term for term in waiting if term[0] >= i]
        found[i] = _added(body.eqns[i], ready, sums, made, last=i == places[-1])
    return {} if all(_same(found[i], body.eqns[i]) for i in places) else found


def _added(eqn: Any, ready: Sequence[Any], sums: dict[bool, list[Any]], made: list[Any], last: bool) -> list[Any]:
    """Adds terms that are there to the sum of their kind, and at the `last` place both sums."""
    found = []

    def add(kind: bool, term: Any) -> None:
        if sums[kind]:
            out = made.pop(0)
            found.append(eqn.replace(invars=[sums[kind].pop(), term], outvars=[out]))
            term = out
        sums[kind].append(term)

    for _, kind, term in ready:
        add(kind, term)
    if last:
        add(True, sums[False].pop())
    return found


def _same(found: Sequence[Any], eqn: Any) -> bool:
    return len(found) == 1 and set(map(id, found[0].invars)) == set(map(id, eqn.invars))


def _in(v: Any, values: Any) -> bool:
    return bool(jaxpr.variables([v])) and v in values
