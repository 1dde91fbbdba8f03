"""Reads the text of an optimised HLO module: `jax.stages.Compiled.as_text()`.

In a scheduled module the instructions of a computation stand in the order in which they run. Only what an account of a
compiled program needs is read: shapes, operands, called computations, attributes as text, where it comes from.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from planner.audit.frames import Frames, read_frames
from planner.errors import AuditError

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e\d+m\d+\w*)?)\[([0-9,<= ]*)\]")
_BITS = re.compile(r"[a-z]+(\d+)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True)
class Array:
    """An array type: shape and dtype as HLO names it, such as `bf16`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> float:
        """Bytes of its elements, without padding."""
        total = _itemsize(self.dtype)
        for size in self.shape:
            total *= size
        return total


def _itemsize(dtype: str) -> float:
    if dtype in ("pred", "token", "opaque"):
        return 1.0 if dtype == "pred" else 0.0
    bits = _BITS.match(dtype)
    return int(bits[1]) / 8 if bits else 0.0


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        type: The text of its type.
        operands: Names of the instructions that it reads; for a constant, its value.
        attributes: Everything behind the operands, as text.
        source: The user's line, as `planner.source` writes it; empty if unknown.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    root: bool
    source: str

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of its result, a tuple's elements in order."""
        return arrays(self.type)

    @property
    def nbytes(self) -> float:
        """Bytes of its result."""
        return sum(array.nbytes for array in self.arrays)

    @cached_property
    def calls(self) -> tuple[str, ...]:
        """Names of the computations that it calls: fusions, loop body and condition, branches, reductions."""
        branches = _BRANCHES.search(self.attributes)
        return (*_CALLED.findall(self.attributes), *(re.findall(r"[\w.\-]+", branches[1]) if branches else ()))

    def called(self, how: str) -> str:
        """The computation that it calls as `how`, such as "body"; empty if none."""
        found = re.search(rf"\b{how}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else ""

    @cached_property
    def op_name(self) -> str:
        """The name that JAX gave the operation, with its named scopes: `jit(f)/while/body/scope/dot_general`."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return found[1] if found else ""

    @cached_property
    def cycles(self) -> float | None:
        """The compiler's estimate of its time, in cycles of the chip; None where it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return float(found[1]) if found else None


@dataclass(frozen=True)
class Computation:
    """Instructions in schedule order."""

    name: str
    instructions: tuple[Instruction, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Instruction]:
        """The instructions by name."""
        return {i.name: i for i in self.instructions}

    @property
    def root(self) -> Instruction:
        """What it returns."""
        return next(i for i in reversed(self.instructions) if i.root or i is self.instructions[-1])


@dataclass(frozen=True)
class Module:
    """A compiled program: computations by name, and which of them is the program itself."""

    computations: Mapping[str, Computation]
    entry: str

    @property
    def main(self) -> Computation:
        """The program itself."""
        return self.computations[self.entry]


def text_of(program: Any) -> str:
    """The HLO text of a `jax.stages.Compiled`, or the text itself. Raises AuditError where a backend gives none."""
    text = program if isinstance(program, str) else program.as_text()
    if text is None:
        raise AuditError("this backend does not tell the text of a compiled program: compile for a TPU topology or CPU")
    return text


def read(program: Any) -> Module:
    """The module of a compiled program or its text. Raises AuditError when there is none."""
    text = text_of(program)
    frames = read_frames(text)
    found: dict[str, Computation] = {}
    entry = ""
    for head, lines in _blocks(text):
        name = head[2]
        entry = name if head[1] else entry
        found[name] = Computation(name, tuple(_instructions(lines, frames)))
    if not entry:
        raise AuditError("no ENTRY computation in this text: pass the text of a compiled program, compiled.as_text()")
    return Module(found, entry)


def _blocks(text: str) -> Iterator[tuple[re.Match[str], list[str]]]:
    head: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        if head is None:
            head, lines = _HEAD.match(line), []
        elif line.startswith("}"):
            yield head, lines
            head = None
        else:
            lines.append(line)


def _instructions(lines: Sequence[str], frames: Frames) -> Iterator[Instruction]:
    for line in lines:
        start = _LINE.match(line)
        if start is not None:
            yield _instruction(line[start.end() :], start[2], bool(start[1]), frames)


def _instruction(text: str, name: str, root: bool, frames: Frames) -> Instruction:
    end = _end(text, 0, " ")
    opening = text.index("(", end)
    closing = _end(text, opening + 1, ")")
    inside, attributes = text[opening + 1 : closing], text[closing + 1 :]
    opcode = text[end + 1 : opening]
    operands = (inside,) if opcode in ("constant", "parameter") else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, opcode, text[:end], operands, attributes, root, frames.source(attributes))


def _end(text: str, start: int, stop: str) -> int:
    """Where `stop` stands outside of any brackets that open after `start`."""
    depth = 0
    for i in range(start, len(text)):
        char = text[i]
        if depth == 0 and char == stop:
            return i
        depth += (char in _OPENING) - (char in _CLOSING)
    raise AuditError(f"this line of HLO ends early: {text[:80]}")


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays in the text of a type."""
    return tuple(Array(dtype, _sizes(sizes)) for dtype, sizes in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", text)))


def _sizes(text: str) -> tuple[int, ...]:
    """Sizes of the dims; a dynamic one counts as its bound."""
    return tuple(int(size.strip().removeprefix("<=")) for size in text.split(",") if size.strip())
