"""Keeps one of several equations that do the same to the same value.

{x. a = f x; b = f x; c = add a b}          becomes          {x. a = f x; c = add a a}
"""

from collections.abc import Callable, Hashable
from typing import Any

from passes.jaxpr import map_bodies, substituted, variables, with_eqns


def share(closed: Any, label: Callable[[Any], Hashable | None]) -> Any:
    """Keeps one of several equations of a body that do the same to the same value.

    Args:
        closed: The program.
        label: What an equation does, or None to leave it alone. Labelled equations have one operand, one result and no
            effect, and doing it twice is doing it once: `f(f(x))` becomes `f(x)`.
    """

    def merge(path: Any, body: Any) -> Any:
        env: dict[Any, Any] = {}
        done: dict[tuple[Any, Hashable], Any] = {}
        eqns = []
        for eqn in (substituted(eqn, env) for eqn in body.eqns):
            what = label(eqn)
            if what is None or not variables(eqn.invars):
                eqns.append(eqn)
            elif (eqn.invars[0], what) in done:
                env[eqn.outvars[0]] = done[eqn.invars[0], what]
            else:
                eqns.append(eqn)
                done |= {(v, what): eqn.outvars[0] for v in (eqn.invars[0], eqn.outvars[0])}
        outs = [env.get(v, v) if variables([v]) else v for v in body.outvars]
        return with_eqns(body, eqns, outs) if env else body

    return map_bodies(closed, merge)
