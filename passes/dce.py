"""Removes equations whose results nothing reads.

    {x. a = sin x; b = cos x; c = exp b} returning a          becomes          {x. a = sin x} returning a

Equations with effects stay. Every body is cleaned inside, but none changes its signature: what a scan computes only to
hand it to an unread result or carry stays, since removing it would take another scan. Inline calls first.
"""

from typing import Any

from passes import jaxpr


def eliminate(closed: Any) -> Any:
    """The program without equations that have neither a reader nor an effect; itself if there are none."""
    return jaxpr.map_bodies(closed, lambda path, body: _live(body))


def _live(body: Any) -> Any:
    read = set(jaxpr.variables(body.outvars))
    kept = []
    for eqn in reversed(body.eqns):
        if eqn.effects or not read.isdisjoint(eqn.outvars):
            read.update(jaxpr.variables(eqn.invars))
            kept.append(eqn)
    return body if len(kept) == len(body.eqns) else jaxpr.with_eqns(body, kept[::-1])
