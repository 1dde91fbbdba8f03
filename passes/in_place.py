"""State that a loop reads and writes slice by slice stays where it is.

A scan that takes a stack as its `xs` and gives one back as its `ys`, as layers do with a KV cache, has two stacks: each
trip copies a slice out of one and a whole new slice into the other, though it may have changed a single row.

    {s. t = scan[{x. y = dynamic_update_slice x row i} xs=s, ys]}          becomes
    {s. t = scan[{n c. d = dynamic_update_slice c row (n, i); y = d[n]} carry=s]}

Trip `n` reads slice `n` before anything has written it, so the values are the same. What reads `y` reads the stack, and
a compiler that fuses the slice into it never copies one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import lax
from jax.extend.source_info_util import user_context

from passes import jaxpr
from passes.scan import counts


@dataclass(frozen=True)
class _State:
    """A stack that a scan reads and writes.

    Attributes:
        taken: Its place among the operands of the scan.
        given: Its place among the results.
        update: The equation of the body that writes a slice.
    """

    taken: int
    given: int
    update: Any


def in_place(closed: Any, kept: Mapping[int, int]) -> Any:
    """The program with its own state carried through the scans that read and write it slice by slice.

    Args:
        closed: The program, without calls.
        kept: For results that take the place of an argument, that argument: flat indices.
    """
    body = closed.jaxpr
    pairs = {(body.invars[i], body.outvars[o]) for o, i in kept.items() if not hasattr(body.outvars[o], "val")}

    def replace(path: jaxpr.Path, eqn: Any) -> Callable | None:
        if len(path) > 1 or jaxpr.primitive_name(eqn) != "scan" or eqn.params["reverse"]:
            return None
        states = [state for state in _states(eqn) if (eqn.invars[state.taken], eqn.outvars[state.given]) in pairs]
        return _carrying(eqn, states) if states else None

    return jaxpr.rewrite(closed, replace)


def _states(eqn: Any) -> list[_State]:
    body = eqn.params["jaxpr"].jaxpr
    consts, carries = counts(eqn)
    slices = {v: k for k, v in enumerate(body.invars) if k >= consts + carries}
    updates = {e.outvars[0]: e for e in body.eqns if jaxpr.primitive_name(e) == "dynamic_update_slice"}
    found = [(updates[v], j) for j, v in enumerate(body.outvars) if j >= carries and v in updates]
    return [_State(slices[e.invars[0]], j, e) for e, j in found if e.invars[0] in slices]


def _carrying(eqn: Any, states: Sequence[_State]) -> Callable:
    params, (consts, carries) = eqn.params, counts(eqn)
    taken, given = [s.taken for s in states], [s.given for s in states]
    step = _writing(params["jaxpr"], states)

    def loop(*operands: Any) -> list[Any]:
        held, start = operands[:consts], operands[consts : consts + carries]
        rest = [x for k, x in enumerate(operands) if k >= consts + carries and k not in taken]

        def trip(carry: Any, xs: Any) -> Any:
            n, stacks, carried = carry
            others = iter(xs)
            slices = dict(zip(taken, (_slice(stack, n) for stack in stacks)))
            ins = [slices[k] if k in slices else next(others) for k in range(consts + carries, len(operands))]
            outs, stacks = step(n, stacks, *held, *carried, *ins)
            return (n + 1, stacks, outs[:carries]), [y for j, y in enumerate(outs) if j >= carries and j not in given]

        first = (jax.numpy.int32(0), [operands[k] for k in taken], list(start))
        (_, stacks, carried), ys = lax.scan(trip, first, rest, params["length"], unroll=params["unroll"])
        back, others = dict(zip(given, stacks)), iter(ys)
        stacked = [back[j] if j in back else next(others) for j in range(carries, len(eqn.outvars))]
        return [*carried, *stacked]

    return loop


def _writing(body: Any, states: Sequence[_State]) -> Callable:
    """The body as a function of its trip and the stacks too, which its updates write before they are read."""
    places = {state.update.outvars[0]: k for k, state in enumerate(states)}

    def step(n: Any, stacks: list[Any], *operands: Any) -> tuple[list[Any], list[Any]]:
        known = dict(zip((*body.jaxpr.constvars, *body.jaxpr.invars), (*body.consts, *operands)))
        for eqn in body.jaxpr.eqns:
            read = [v.val if hasattr(v, "val") else known[v] for v in eqn.invars]
            with user_context(eqn.source_info.traceback, name_stack=eqn.source_info.name_stack):
                if (k := places.get(eqn.outvars[0] if eqn.outvars else None)) is None:
                    results = jaxpr.bind(eqn, *read)
                else:
                    stacks[k] = _write(stacks[k], n, *read[1:])
                    results = [_slice(stacks[k], n)]
            known.update(zip(eqn.outvars, results))
        return [v.val if hasattr(v, "val") else known[v] for v in body.jaxpr.outvars], stacks

    return step


def _slice(stack: Any, n: Any) -> Any:
    starts = [n, *[jax.numpy.int32(0)] * (stack.ndim - 1)]
    found = lax.dynamic_slice(stack, starts, (1, *stack.shape[1:]), allow_negative_indices=False)
    return lax.squeeze(found, (0,))


def _write(stack: Any, n: Any, row: Any, *starts: Any) -> Any:
    at = [n.astype(starts[0].dtype), *starts]
    return lax.dynamic_update_slice(stack, lax.expand_dims(row, (0,)), at, allow_negative_indices=False)
