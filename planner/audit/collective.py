"""The collectives of a compiled program, whichever of its many forms the compiler gave them.

    all-gather, reduce-scatter, …                            at once
    all-gather-start … all-gather-done                       beside what stands between
    async-start(), calls=%f … async-done                     likewise, the collective is in %f
    fusion(), calls=%all-reduce-scatter                      a reduce-scatter, fused from all-reduce and slice (TPU)
    fusion()s in a row that all call one chain               starts with the first, ends with the last (TPU)

Bytes are counted as in `planner.cost.collectives`: what a device holds where it holds most.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from planner.audit.groups import Span, groups_of, pairs_of, span
from planner.audit.hlo import Computation, Instruction, Module
from planner.errors import AuditError
from planner.sharding import MeshShape

KINDS = {
    "all-gather": "all_gather",
    "reduce-scatter": "reduce_scatter",
    "all-reduce": "all_reduce",
    "all-to-all": "all_to_all",
    "ragged-all-to-all": "all_to_all",
    "collective-permute": "permute",
    "collective-broadcast": "permute",
}
_WRAPPERS = ("fusion", "async-start", "call")
_SCATTER = "all-reduce-scatter"


@dataclass(frozen=True, eq=False)
class Compiled:
    """One collective of a compiled program.

    Attributes:
        kind: As the planner calls it.
        span: The mesh axes that it joins.
        groups: The devices of each group, of a permute each sender and receiver: positions in the mesh.
        nbytes: Of one trip.
        starts: Whether a later `-done` waits for it.
        by_update: An all_reduce of a slice in a buffer of zeros: a gather, at twice its price.
        arrays: How many arrays travel together.
        chain: Of a collective that several fusions carry on, the compiler's number; empty for any other.
    """

    name: str
    kind: str
    span: Span
    groups: np.ndarray
    nbytes: float
    source: str
    op_name: str
    starts: bool = False
    by_update: bool = False
    arrays: int = 1
    chain: str = ""


def collective_of(module: Module, inside: Computation, instruction: Instruction, mesh: MeshShape) -> Compiled | None:
    """The collective that an instruction is, starts, or wraps; None for any other."""
    found = next(_within(module, inside, instruction), None)
    if found is None:
        return None
    where, core = found
    base = core.opcode.removesuffix("-start")
    kind = "reduce_scatter" if _SCATTER in where.name and base == "all-reduce" else KINDS[base]
    operands = [where.by_name[name] for name in core.operands if name in where.by_name]
    nbytes = sum(operand.nbytes for operand in operands)
    groups = _groups(core, mesh)
    reach = span(groups, mesh)
    return Compiled(
        instruction.name,
        kind,
        reach,
        groups,
        nbytes * (reach.size if kind == "all_gather" else 1),
        instruction.source or core.source or _near(inside, instruction),
        instruction.op_name or core.op_name,
        starts=instruction.opcode.endswith("-start"),
        by_update=kind == "all_reduce" and any(_updates(module, operand) for operand in operands),
        arrays=len(operands),
        chain=_chain(core),
    )


def _within(module: Module, inside: Computation, instruction: Instruction) -> Iterator[tuple[Computation, Instruction]]:
    """The instruction if it is a collective, else those in the computations that it wraps."""
    if instruction.opcode.removesuffix("-start") in KINDS:
        yield inside, instruction
    if instruction.opcode in _WRAPPERS:
        for name in instruction.calls:
            called = module.computations[name]
            for inner in called.instructions:
                yield from _within(module, called, inner)


def chains(module: Module, inside: Computation) -> Mapping[str, str]:
    """The chains in a computation, and the last instruction of each."""
    found = [(_chain(core), i.name) for i in inside.instructions for _, core in _within(module, inside, i)]
    times = Counter(chain for chain, _ in found)
    return {chain: name for chain, name in found if chain and times[chain] > 1}


def _chain(core: Instruction) -> str:
    found = re.search(r'\bchain_id="?(\d+)', core.attributes)
    return found[1] if found else ""


def _groups(core: Instruction, mesh: MeshShape) -> np.ndarray:
    devices = int(mesh.size[-1])
    groups = groups_of(core.attributes, devices)
    groups = pairs_of(core.attributes) if groups is None else groups
    if groups is None:
        raise AuditError(f"{core.name} ({core.opcode}) names no devices: {core.attributes[:120]}")
    if groups.max(initial=0) >= devices:
        raise AuditError(f"{core.name} joins device {groups.max()}, mesh {mesh} has {devices}: pass the program's mesh")
    return groups


def _updates(module: Module, operand: Instruction) -> bool:
    """Whether a value is a slice written into a larger buffer."""
    if operand.opcode == "fusion":
        operand = module.computations[operand.called("calls")].root
    return operand.opcode == "dynamic-update-slice"


def _near(inside: Computation, instruction: Instruction) -> str:
    """The line of the nearest instruction that feeds it and has one; of one that it feeds, if none does."""
    frontier, seen = [instruction], {instruction.name}
    while frontier:
        names = [name for one in frontier for name in one.operands if name in inside.by_name and name not in seen]
        seen.update(names)
        frontier = [inside.by_name[name] for name in names]
        if found := next((one.source for one in frontier if one.source and one.opcode != "parameter"), ""):
            return found
    return next((one.source for one in inside.instructions if instruction.name in one.operands and one.source), "")
