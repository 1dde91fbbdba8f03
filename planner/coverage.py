"""Which primitives the planner understands, read off its registries: `python -m planner.coverage` prints the table.

The table stands in the README between two markers, where a test keeps it fresh.
"""

from collections.abc import Iterator

from planner.build import CALLS
from planner.loops import LOOPS
from planner.rules.opaque import BARRIERS, MANUAL
from planner.rules.registry import family, registered

FAMILIES = {
    "elementwise": "one factor for each dim",
    "dot": "batch, free and contracted dims; partial sums",
    "reduce": "reduced dims leave partial results; scanned and sorted dims are whole",
    "shape": "moves of elements",
    "reshape": "the common refinement of both shapes",
    "slicing": "dims taken in full are free",
    "gather": "batch dims, windows, and the rows of a split table",
    "conv": "batch, features, groups; spatial dims where windows tile them",
    "window": "pooling: dims that windows tile",
    "linalg": "batch dims; right-hand sides",
    "random": "keys, and counters by position",
}


def table() -> str:
    """The table in Markdown."""
    rows = [f"| {how} | {what} | {_names(names)} |" for how, what, names in _rows()]
    return "\n".join(["| | how it is planned | primitives |", "|---|---|---|", *rows])


def _rows() -> Iterator[tuple[str, str, list[str]]]:
    for name, what in FAMILIES.items():
        yield name, what, [p for p in registered() if family(p) == name]
    yield "calls", "walked through as if inlined", sorted(CALLS)
    yield "control flow", "planned inside, carries tied", sorted(LOOPS)
    yield "regions", "kept as they are, their specs are pins", ["shard_map"]
    yield "inside of regions", "the user's own collectives", sorted(MANUAL)
    yield "barriers", "whole on every device, in order, noted", sorted(BARRIERS)
    yield "all others", "Shardy's rule for what they lower to, else whole; noted with the source line", []


def _names(names: list[str]) -> str:
    return " ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    print(table())
