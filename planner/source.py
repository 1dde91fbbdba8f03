"""Where in the user's code an equation comes from, written alike on every machine: `models/layers.py:50 (norm)`."""

import os
import re
from functools import cache
from typing import Any

from passes import jaxpr


def source_line(eqn: Any) -> str:
    """File, line and function of the user's innermost frame, the file as seen from its outermost package; or empty."""
    file, colon, line = jaxpr.source(eqn).rpartition(":")
    return f"{within_package(file)}{colon}{_unqualified(line)}"


def line_of(file: str, line: str, function: str) -> str:
    """The same for a file, a line and a function that are known."""
    return f"{within_package(file)}:{line}{f' ({_unqualified(function)})' if function else ''}"


def _unqualified(text: str) -> str:
    return re.sub(r"[^ (]*<locals>[.]", "", text)


def where(eqn: Any) -> str:
    """The source line, or words that stand for it."""
    return source_line(eqn) or "the program"


@cache
def within_package(file: str) -> str:
    """The path from the folder above the outermost package that the file is in; a lone script's name."""
    folder, name = os.path.split(file)
    while folder and os.path.exists(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        name = f"{package}/{name}"
    return name
