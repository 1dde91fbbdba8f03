"""Whether a saved plan is for this program: what differs is named before anything is compiled."""

from typing import Any

from passes.jaxpr import show, source, walk
from planner.build import Pins
from planner.errors import PlanMismatchError
from planner.plan import Plan
from planner.sharding import to_spec
from planner.trace import Program


def check_matches(plan: Plan, program: Program, mesh: Any) -> None:
    """Raises PlanMismatchError, saying what differs, unless the plan is for this program on this mesh."""
    here = dict(zip(mesh.axis_names, mesh.shape.values()))
    if plan.mesh != here:
        raise PlanMismatchError(f"the plan is for mesh {plan.mesh}, this is {here}: plan again for this mesh")
    avals = [(n, tuple(v.aval.shape), str(v.aval.dtype)) for n, v in zip(program.names, program.closed.jaxpr.invars)]
    planned = [(v.name, v.shape, v.dtype) for v in plan.arguments]
    for now, then in zip(avals, planned):
        if now != then:
            raise PlanMismatchError(
                f"argument {now[0]} is {now[2]}{list(now[1])}, the plan has {then[0]} {then[2]}{list(then[1])}: "
                f"plan again"
            )
    if len(avals) != len(planned):
        raise PlanMismatchError(
            f"the function has {len(avals)} array arguments, the plan {len(planned)}: it is for another function"
        )
    if plan.program != program.fingerprint:
        raise PlanMismatchError(
            f"the plan is for another program ({plan.function}, fingerprint {plan.program}; this one is "
            f"{program.fingerprint}) with equal arguments: {_difference(plan, program)}; plan again"
        )


def check_specs(plan: Plan, pins: Pins) -> None:
    """Raises PlanMismatchError where the user asks for a spec that the plan does not have."""
    for value, spec in zip((*plan.arguments, *plan.results), (*pins.inputs, *pins.outputs)):
        if spec is not None and spec != to_spec(value.spec):
            raise PlanMismatchError(f"{value.name} is to have {spec}, the plan has {to_spec(value.spec)}: plan again")


def _difference(plan: Plan, program: Program) -> str:
    here = {show(path): eqn for path, eqn in walk(program.closed)}
    for op in plan.operations:
        eqn = here.get(op.path)
        if op.primitive != "loop" and (eqn is None or eqn.primitive.name != op.primitive):
            now = f"{eqn.primitive.name} at {source(eqn)}" if eqn is not None else "nothing"
            return f"equation {op.path} was {op.primitive} at {op.source}, is {now}"
    return "an equation's params differ"
