"""How often a while loop runs: what the user says, what its condition says, else an estimate that the plan states.

A condition says it where it compares a counter to a literal, and the counter starts at a literal and moves by one:
`while i < 10: i = i + 1`.
"""

from math import ceil, floor
from typing import Any

from passes.jaxpr import subjaxprs
from planner.hints import Hints

ESTIMATE = 100.0
"""Trips of a loop of which nothing is known; XLA's own auto-sharding takes the same number for every loop."""

_UP, _DOWN = {"lt": False, "le": True}, {"gt": False, "ge": True}
"""Comparisons that end a loop whose counter grows or shrinks, and whether the bound itself is still a trip."""


def trips_of(eqn: Any, source: str, hints: Hints) -> tuple[float, str]:
    """Trips of a `while`, and what the reader of the plan must know of them; empty where they are certain."""
    place = source or "the program"
    given = hints.trips_at(source)
    if given is not None:
        return float(given), f"while loop at {place}: {given:g} trips, as given"
    counted = count(eqn)
    if counted is not None:
        return counted, ""
    advice = f"; say what it is by trips={{{source.split(' ')[0]!r}: n}}" if source else ""
    return ESTIMATE, f"unknown trip count of the while loop at {place}: estimated as {ESTIMATE:g}{advice}"


def count(eqn: Any) -> float | None:
    """Trips of a `while` by its condition, or None."""
    subs, n = dict(subjaxprs(eqn)), eqn.params["cond_nconsts"]
    test, body = subs["cond_jaxpr"], subs["body_jaxpr"]
    if len(test.eqns) != 1 or test.outvars[0] is not test.eqns[0].outvars[0]:
        return None
    counter, bound = test.eqns[0].invars[0], getattr(test.eqns[0].invars[-1], "val", None)
    if counter not in test.invars[n:] or bound is None:
        return None
    i = test.invars.index(counter) - n
    start = eqn.invars[n + eqn.params["body_nconsts"] + i]
    step = _step(body, i + eqn.params["body_nconsts"], i)
    if step is None or not hasattr(start, "val"):
        return None
    reaches = (_UP if step > 0 else _DOWN).get(test.eqns[0].primitive.name)
    if reaches is None:
        return None
    steps = (int(bound) - int(start.val)) / step
    return float(max(0, floor(steps) + 1 if reaches else ceil(steps)))


def _step(body: Any, i: int, out: int) -> int | None:
    """By how much input `i` of a body grows on its way to output `out`, if that is a literal."""
    made = {v: eqn for eqn in body.eqns for v in eqn.outvars}
    eqn = None if hasattr(body.outvars[out], "val") else made.get(body.outvars[out])
    if eqn is None or eqn.primitive.name not in ("add", "sub") or eqn.invars[0] is not body.invars[i]:
        return None
    by = getattr(eqn.invars[1], "val", None)
    if by is None or not hasattr(by, "dtype") or by.dtype.kind not in "iu":
        return None
    return int(by) if eqn.primitive.name == "add" else -int(by)
