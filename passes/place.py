"""Where an equation is: its path in a program, and the user's line.

Every equation of a program has a `Path`, read from outside in: the index of an equation, the param that holds the
nested jaxpr, the index in there, and so on. `3/jaxpr/7` is equation 7 of the body of equation 3; `5/branches.1/0` the
first equation of the second branch of a `cond`. An odd number of steps names an equation, an even number a body, and
the empty path is the body of the program itself.
"""

import os
from typing import Any

import jax
import jaxlib

Path = tuple[int | str, ...]

LIBRARY = tuple(os.path.join(folder, "") for folder in (jax.__path__[0], jaxlib.__path__[0], os.path.dirname(__file__)))


def show(path: Path) -> str:
    """The path as text, such as `5/branches.1/0`."""
    return "/".join(map(str, path))


def parse(text: str) -> Path:
    """The inverse of `show`."""
    return tuple(int(step) if step.isdigit() else step for step in text.split("/") if step)


def primitive_name(eqn: Any) -> str:
    """Name of the primitive that the equation applies."""
    return eqn.primitive.name


def source(eqn: Any) -> str:
    """The line that made the equation, `file:line (function)`; empty if unknown.

    It is the innermost one outside of JAX and this package.
    """
    frames = eqn.source_info.traceback.frames if eqn.source_info.traceback else ()
    user = (frame for frame in frames if not frame.file_name.startswith(LIBRARY))
    return next((f"{frame.file_name}:{frame.line_num} ({frame.function_name})" for frame in user), "")


def locate(path: Path, eqn: Any | None = None) -> str:
    """Where an error is: the path and, of an equation, the primitive and the user's line."""
    if eqn is None:
        return f"at {show(path) or 'the top'}"
    return f"at {show(path)}, {primitive_name(eqn)} from {source(eqn) or 'an unknown line'}"
