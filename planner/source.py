"""Where in the user's code an equation comes from, written alike on every machine: `models/layers.py:50 (norm)`."""

import os
import re
from functools import cache
from typing import Any

from passes import jaxpr


def source_line(eqn: Any) -> str:
    """File, line and function of the user's innermost frame, the file as seen from its outermost package; or empty."""
    file, colon, line = jaxpr.source(eqn).rpartition(":")
    return f"{within_package(file)}{colon}{re.sub(r'[^ (]*<locals>[.]', '', line)}"


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
