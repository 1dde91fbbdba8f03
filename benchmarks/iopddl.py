"""The contest's instances of this problem, solved and checked: `python -m benchmarks.iopddl FILE.json.gz … [--work N]`.

The format is that of google/iopddl (ASPLOS/EuroSys 2025 contest on intra-operator parallelism). An answer is evaluated
on the numbers of the file itself, by code that shares nothing with the solver.
"""

import gzip
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from planner.errors import PlanError
from planner.solve import Edge, Problem, Spans, solve

FORBIDDEN = 10**18
TOLERANCE = 1e-8  # float64 and bounds that are rounded down by 1e-9 allow no less
BEST = {
    "A": 6548641531,
    "B": 532843,
    "C": 84102445260,
    "D": 313613524736,
    "E": 338965335230,
    "F": 364364563561,
    "G": 217039,
    "H": 527715404257,
    "I": 583706456444,
    "J": 1360981630371,
    "K": 2274276676,
    "L": 1970993742,
    "M": 49928460991,
    "N": 202739586553,
    "O": 222880199765,
    "P": 662197407330,
    "Q": 526776842042,
    "R": 371899551572,
    "S": 1534613444,
    "T": 682895254913,
    "U": 2569342178,
    "V": 1632051,
    "W": 11818845467155,
    "X": 280461191177,
    "Y": 621176568278,
}
"""The best costs of any team in the contest (one to five minutes on eight cores), as published in its results."""
XLA = {"A": 13214846074, "B": 990205, "G": 1264777}
"""What XLA's auto-sharding found, where it found anything."""


class FormatError(PlanError):
    """A file that is not an instance of the contest."""


@dataclass(frozen=True)
class Instance:
    """A file's content: plain numbers, as they are written."""

    name: str
    costs: list[list[int]]
    usages: list[list[int]]
    intervals: list[list[int]]
    pairs: list[list[int]]
    tables: list[list[int]]
    limit: int


def load(path: Path) -> Instance:
    """Reads an instance. Raises FormatError where the file is none, or does not fit together."""
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            problem = json.load(file)["problem"]
        nodes, edges = problem["nodes"], problem["edges"]
        found = Instance(
            path.name.split(".")[0].removeprefix("asplos-2025-iopddl-"),
            nodes["costs"],
            nodes["usages"],
            nodes["intervals"],
            edges["nodes"],
            edges["costs"],
            problem["usage_limit"],
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path}: not an instance of the contest ({error!r}): expected JSON, gzipped or not, with nodes.costs, "
            f"nodes.usages, nodes.intervals, edges.nodes, edges.costs and usage_limit under `problem`"
        ) from error
    return _checked(path, found)


def _checked(path: Path, found: Instance) -> Instance:
    """Raises FormatError for the first thing that does not fit together."""
    sizes = [len(cost) for cost in found.costs]
    if not len(sizes) == len(found.usages) == len(found.intervals):
        raise FormatError(f"{path}: {len(sizes)} costs, {len(found.usages)} usages, {len(found.intervals)} intervals")
    for n, (size, usage, interval) in enumerate(zip(sizes, found.usages, found.intervals)):
        if not size or len(usage) != size or len(interval) != 2:
            raise FormatError(f"{path}: node {n} has {size} costs, {len(usage)} usages, the interval {interval}")
    for e, (pair, table) in enumerate(zip(found.pairs, found.tables, strict=True)):
        if not all(0 <= n < len(sizes) for n in pair) or len(table) != sizes[pair[0]] * sizes[pair[1]]:
            raise FormatError(f"{path}: edge {e} joins nodes {pair} with {len(table)} costs")
    return found


def problem_of(instance: Instance) -> Problem:
    """The instance as an integer program. Equal arrays are one."""
    one: dict[Any, np.ndarray] = {}

    def array(values: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
        found = np.array(values, float).reshape(shape)
        found[found >= FORBIDDEN] = np.inf
        return one.setdefault((shape, found.tobytes()), found)

    def every(n: int) -> np.ndarray:
        return one.setdefault(len(instance.costs[n]), np.arange(len(instance.costs[n])))

    cost = tuple(array(c, (len(c),)) for c in instance.costs)
    extra = [c.copy() for c in cost]
    edges = []
    for (u, v), table in zip(instance.pairs, instance.tables):
        dense = array(table, (len(cost[u]), len(cost[v])))
        if u == v:
            extra[u] += dense.diagonal()
        else:
            edges.append(Edge(u, v, every(u), every(v), dense))
    usage = tuple(array(u, (len(u),)) for u in instance.usages)
    return Problem(tuple(extra), tuple(edges), usage, _spans(instance.intervals), float(instance.limit))


def _spans(intervals: Sequence[Sequence[int]]) -> Spans:
    bounds = np.array(intervals, np.intp).reshape(-1, 2)
    held = np.flatnonzero(bounds[:, 0] < bounds[:, 1])
    moments = int(bounds[:, 1].max(initial=0))
    return Spans(len(bounds), held, bounds[held, 0], bounds[held, 1], ("",) * moments)


def cost_of(instance: Instance, choice: Sequence[int]) -> int | None:
    """The contest's own rule, in integers, on the file's own numbers; None for a choice that does not fit."""
    change = [0] * (max((stop for _, stop in instance.intervals), default=0) + 1)
    for (start, stop), usage, x in zip(instance.intervals, instance.usages, choice):
        if start < stop:
            change[start] += usage[x]
            change[stop] -= usage[x]
    held = 0
    for more in change:
        held += more
        if held > instance.limit:
            return None
    total = sum(cost[x] for cost, x in zip(instance.costs, choice))
    for (u, v), table in zip(instance.pairs, instance.tables):
        total += table[choice[u] * len(instance.costs[v]) + choice[v]]
    return total if total < FORBIDDEN else None


def rows(paths: Sequence[Path], work: float) -> Iterator[tuple[str, ...]]:
    """A line of the table for each file."""
    for path in paths:
        start = time.perf_counter()
        instance = load(path)
        solution = solve(problem_of(instance), work=work, tolerance=TOLERANCE)
        seconds = time.perf_counter() - start
        cost = cost_of(instance, solution.choice)
        if cost is None:
            yield instance.name, "nothing fits", "", "", f"{seconds:.1f}", *_known(instance.name)
            continue
        bound = min(cost, int(np.ceil(solution.bound)))  # costs are integers
        gap = (cost - bound) / cost if cost else 0.0
        yield instance.name, f"{cost:,}", f"{bound:,}", f"{gap:.1e}", f"{seconds:.1f}", *_known(instance.name)


def _known(name: str) -> tuple[str, str]:
    return tuple(f"{known[name]:,}" if name in known else "" for known in (BEST, XLA))  # type: ignore[return-value]


def main(files: list[Path], work: Annotated[float, typer.Option(help="Scales the solver's work limit.")] = 1.0) -> None:
    """Solves the contest's instances and prints a line for each."""
    table = Table(title="Contest instances", title_justify="left")
    for name in ("instance", "objective", "bound", "gap", "seconds, all in", "contest's best", "XLA"):
        table.add_column(name, justify="left" if name == "instance" else "right")
    console = Console(width=130)
    for row in rows(files, work):
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
