"""How often a loop runs: the compiler's own word for it, else the constant that its condition compares with."""

import re

from planner.audit.hlo import Computation, Instruction, Module

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def trips_of(module: Module, loop: Instruction) -> float | None:
    """Trips of a `while` that counts up by one from zero to a constant; None where the text does not tell."""
    known = _KNOWN.search(loop.attributes)
    if known:
        return float(known[1])
    condition = module.computations[loop.called("condition")]
    return _bound(module, condition)


def _bound(module: Module, condition: Computation) -> float | None:
    """The largest integer constant that the condition, or a fusion in it, compares with."""
    compared = _resolved(module, condition, condition.root)
    return max(compared, default=None)


def _resolved(module: Module, condition: Computation, root: Instruction) -> list[float]:
    operands = [condition.by_name[name] for name in root.operands if name in condition.by_name]
    if root.opcode == "compare" or root.opcode == "fusion":
        inner = [i for name in root.calls for i in module.computations[name].instructions]
        return [value for i in (*operands, *inner) if (value := _constant(i)) is not None]
    return [value for operand in operands for value in _resolved(module, condition, operand)]


def _constant(i: Instruction) -> float | None:
    if i.opcode != "constant" or not re.fullmatch(r"-?\d+", i.operands[0]):
        return None
    return float(i.operands[0])
