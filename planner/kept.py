"""Regions that the planner leaves as they are: what the user sharded by hand, and what nobody can look into.

A `shard_map` says itself where its operands and results lie. Its rule has one factor for each mesh axis, and its one
strategy splits each by its own axis: so its specs are pins, and moving a value there is priced like any other move.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from planner.effort import flops, kernel, shapes
from planner.rules import Rule
from planner.rules.labels import Whole, labelled
from planner.rules.opaque import replicated
from planner.sharding import names_of

Mesh = Mapping[str, int]


def region(eqn: Any, mesh: Mesh | None) -> tuple[Rule, Mapping[str, int] | None, str]:
    """The rule of a `shard_map`, the factor that each mesh axis splits, and what the reader of a plan must know.

    Args:
        eqn: The equation.
        mesh: Axes and sizes of the mesh that is planned for; a region on another one takes and gives whole values.
    """
    theirs = dict(eqn.params["mesh"].shape)
    split = [axis for axis, size in theirs.items() if size > 1 and axis in _manual(eqn.params)]
    ins, outs = shapes(eqn.invars), shapes(eqn.outvars)
    work = flops(eqn.params["jaxpr"])
    moved = "its collectives are not priced"
    if mesh is None or any(mesh.get(axis) != theirs[axis] for axis in split):
        return (
            replicated(ins, outs, work),
            None,
            f"on a mesh {theirs} of its own: takes and gives whole values; {moved}",
        )
    specs = (*eqn.params["in_specs"], *eqn.params["out_specs"])
    rows = [_labels(spec, shape, theirs, split) for spec, shape in zip(specs, (*ins, *outs), strict=True)]
    labels = {label: None for row in rows for dim in row for label in dim}
    used = [axis for axis in split if axis in labels]
    sizes = {axis: theirs[axis] for axis in used} | {la: la.dim for la in labels if isinstance(la, Whole)}
    rule = labelled(rows[: len(ins)], rows[len(ins) :], ins, outs, sizes=sizes, work=work)
    return rule, {axis: i for i, axis in enumerate(used)}, f"kept as it is, its specs are pins; {moved}"


def _manual(params: Mapping[str, Any]) -> Sequence[str]:
    axes = params.get("newly_manual_axes", params.get("manual_axes"))
    return tuple(params["mesh"].axis_names) if axes is None else tuple(axes)


def _labels(spec: Any, shape: Sequence[int], sizes: Mesh, split: Sequence[str]) -> list[list[Any]]:
    """For each dim its axes, major to minor, then what is left of it."""
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    axes = [[axis for axis in names_of(entry) if axis in split] for entry in entries]
    return [[*names, Whole("size", size // prod(sizes[a] for a in names))] for size, names in zip(shape, axes)]


def barrier(eqn: Any, ins: Sequence[Any], outs: Sequence[Any]) -> Rule:
    """The rule of a kernel, a foreign call or a callback: all of it on every device, at its author's price if any."""
    return replicated(ins, outs, kernel(eqn.params) if eqn.primitive.name == "pallas_call" else None)
