"""Workloads by name: `MODULE:NAME` is a callable without arguments that returns `(fun, abstract_args)`."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from planner.errors import PlanError

REMEDY = "it must be a callable without arguments that returns (fun, abstract_args)"


def load_workload(text: str) -> tuple[Callable, Sequence[Any]]:
    """The function and its abstract arguments, looked up in the current folder first. Raises PlanError."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise PlanError(f"workload {text!r}: write MODULE:NAME, such as benchmarks.models.palm:decode_8b")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with _blame(f"workload {text!r}: cannot import {module} from {os.getcwd()} or the installed packages"):
        found: Any = importlib.import_module(module)
    return _called(text, _attribute(text, found, name))


def _attribute(text: str, found: Any, name: str) -> Any:
    for part in name.split("."):
        if not hasattr(found, part):
            there = [n for n, value in sorted(vars(found).items()) if callable(value) and not n.startswith("_")]
            raise PlanError(f"workload {text!r}: there is no {name!r}; callables there are {', '.join(there)}")
        found = getattr(found, part)
    return found


def _called(text: str, workload: Any) -> tuple[Callable, Sequence[Any]]:
    if not callable(workload):
        raise PlanError(f"workload {text!r} is of type {type(workload).__name__}; {REMEDY}")
    with _blame(f"workload {text!r}: calling it failed; {REMEDY}"):
        made: Any = workload()
    pair = isinstance(made, tuple) and len(made) == 2
    if not (pair and callable(made[0]) and isinstance(made[1], tuple | list)):
        raise PlanError(f"workload {text!r} returned {type(made).__name__} {made!r:.80}; {REMEDY}")
    return made


@contextmanager
def _blame(what: str) -> Iterator[None]:
    """Whatever the user's module raises becomes a line that says where."""
    try:
        yield
    except Exception as error:
        raise PlanError(f"{what}: {type(error).__name__}: {error}{_place(error)}") from error


def _place(error: Exception) -> str:
    """The last line of the user's own files in a traceback."""
    ours = (__file__, importlib.__file__)
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename not in ours and not f.filename.startswith("<")
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
