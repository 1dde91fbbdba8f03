"""Where an instruction comes from: the source lines in HLO metadata, written as `planner.source` writes them.

Newer modules say `stack_frame_id=7` and list files, functions, locations and frames once at their top; older ones say
`source_file="…" source_line=3` at each instruction. There is no function name then.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile

from planner.source import line_of

_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_ROW = re.compile(r"^(\d+) (.*)$")
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_FILE = re.compile(r'source_file="([^"]*)"')
_LINE = re.compile(r"source_line=(\d+)")


@dataclass(frozen=True)
class Frames:
    """The tables at the top of a module: rows by number, as text."""

    files: Mapping[int, str]
    functions: Mapping[int, str]
    locations: Mapping[int, str]
    frames: Mapping[int, str]

    def source(self, attributes: str) -> str:
        """The line that an instruction's attributes name, `file:line (function)`; empty if none."""
        frame, file = _FRAME.search(attributes), _FILE.search(attributes)
        if frame is not None:
            return self.lines.get(int(frame[1]), "")
        line = _LINE.search(attributes)
        return line_of(file[1], line[1] if line else "?", "") if file else ""

    @cached_property
    def lines(self) -> Mapping[int, str]:
        """The line of each frame."""
        return {i: self._line(_number(row, "file_location_id")) for i, row in self.frames.items()}

    def _line(self, location: int) -> str:
        row = self.locations.get(location, "")
        file = self.files.get(_number(row, "file_name_id"), "")
        function = self.functions.get(_number(row, "function_name_id"), "")
        return line_of(file, str(_number(row, "line")), function) if file else ""


def _number(row: str, field: str) -> int:
    found = re.search(rf"\b{field}=(\d+)", row)
    return int(found[1]) if found else 0


def read_frames(text: str) -> Frames:
    """The tables of a module's text."""
    lines = text.splitlines()
    return Frames(*(_table(lines, name) for name in _TABLES))


def _table(lines: list[str], name: str) -> Mapping[int, str]:
    if name not in lines:
        return {}
    rows = takewhile(bool, map(_ROW.match, lines[lines.index(name) + 1 :]))
    return {int(row[1]): row[2].strip('"') for row in rows if row}
