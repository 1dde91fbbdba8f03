"""Pins operands and results of addressed equations to a sharding.

With pins `{(0,): Pin((P("x"), None), (P("x"),)), (1,): Pin((P("x"), None), (None,))}` the program

    {x w v. a = dot_general x w; b = dot_general x v}

becomes

    {x w v. y = sharding_constraint[x] x; c = dot_general y w; a = sharding_constraint[x] c; b = dot_general y v}

Equations of one body that want the same value in the same spec read one constraint, so that the collective that it asks
for runs once. What is inserted carries the name `meshplan` behind the user's own in its name stack.
"""

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from passes import jaxpr
from passes.jaxpr import Path
from passes.region import SCOPE, Region, run_of
from passes.share import share

Specs = tuple[PartitionSpec | Sequence[PartitionSpec] | None, ...]


@dataclass(frozen=True)
class Pin:
    """Specs for the operands and results of one equation, in order; None leaves a value alone.

    A sequence of specs pins to one after the other: a sum is reduced into the first, the whole moves to the next.
    """

    operands: Specs
    results: Specs


def constrain(
    closed: Any,
    pins: Mapping[Path, Pin],
    mesh: Mesh | AbstractMesh,
    inputs: Mapping[Path, Specs] | None = None,
    outputs: Mapping[Path, Specs] | None = None,
    instead: Callable[[Path, Any], Callable | None] | None = None,
    regions: Mapping[Path, Region] | None = None,
) -> Any:
    """The program with the given values constrained to the given specs.

    Args:
        closed: The program, a closed jaxpr.
        pins: For equations, what to pin. On an equation that holds a jaxpr, such as a scan, this means the whole
            operands and results; address the equations or inputs inside to pin one trip's values.
        mesh: Its axes are named by the specs. Explicit axes are taken as Auto ones.
        inputs: For bodies, specs of their inputs: `()` is the program itself, `(3, "jaxpr")` the body of equation 3.
        outputs: For bodies, specs of their outputs.
        instead: `instead(path, eqn)` gives None, or a function of the operands that stands in for the equation,
            between the constraints.
        regions: Runs of equations that are computed on shards instead, by the path of their first; pins of equations in
            them count for nothing.

    Raises:
        ValueError: A path is not in the program, or a spec does not fit its value.
    """
    mesh = auto(mesh)
    _check_paths(closed, pins, {**(inputs or {}), **(outputs or {})})
    trace = functools.cache(_constraint)

    def programs(where: str, what: str, specs: Specs, types: Sequence[Any]) -> tuple[Any, ...]:
        shardings = _shardings(where, what, specs, types, mesh)
        return tuple(None if s is None else trace(aval, s) for aval, s in zip(types, shardings))

    def replace(path: Path, eqn: Any) -> jaxpr.Around | jaxpr.Run | None:
        if regions and path in regions:
            return run_of(closed, path, regions[path], mesh)
        pin, middle = pins.get(path), instead(path, eqn) if instead else None
        if pin is None:
            return middle and jaxpr.Around((None,) * len(eqn.invars), (None,) * len(eqn.outvars), middle)
        where = jaxpr.locate(path, eqn)
        operands = programs(where, "operands", pin.operands, [v.aval for v in eqn.invars])
        return jaxpr.Around(operands, programs(where, "results", pin.results, [v.aval for v in eqn.outvars]), middle)

    enter, leave = _border("inputs", inputs or {}, mesh), _border("outputs", outputs or {}, mesh)
    return share(jaxpr.rewrite(closed, replace, enter, leave), _inserted)


def _border(what: str, given: Mapping[Path, Specs], mesh: Mesh | AbstractMesh) -> jaxpr.Border:
    def put(path: Path, types: Sequence[Any]) -> Callable | None:
        if path not in given:
            return None
        shardings = _shardings(jaxpr.locate(path), what, given[path], types, mesh)
        return lambda *xs: [x if s is None else _put(x, s) for x, s in zip(xs, shardings)]

    return put


def auto(mesh: Mesh | AbstractMesh) -> Mesh | AbstractMesh:
    """The mesh with Auto axes, on which a program may be told its shardings anywhere."""
    return mesh.update(axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def _constraint(aval: Any, shardings: tuple[NamedSharding, ...]) -> Any:
    return jax.make_jaxpr(lambda x: _put(x, shardings))(aval)


@jax.named_scope(SCOPE)
def _put(x: jax.Array, shardings: Sequence[NamedSharding]) -> jax.Array:
    for sharding in shardings:
        x = jax.lax.with_sharding_constraint(x, sharding)
    return x


def _shardings(
    where: str, what: str, specs: Specs, types: Sequence[Any], mesh: Mesh | AbstractMesh
) -> list[tuple[NamedSharding, ...] | None]:
    if len(specs) != len(types):
        raise ValueError(f"{where}: {len(specs)} specs for {len(types)} {what}; give one each, None to leave it alone")
    return [None if spec is None else _chain(where, mesh, spec, aval) for spec, aval in zip(specs, types)]


def _chain(where: str, mesh: Mesh | AbstractMesh, spec: Any, aval: Any) -> tuple[NamedSharding, ...]:
    specs = (spec,) if isinstance(spec, PartitionSpec) else spec
    return tuple(_sharding(where, mesh, s, aval) for s in specs)


def _sharding(where: str, mesh: Mesh | AbstractMesh, spec: PartitionSpec, aval: Any) -> NamedSharding:
    if reason := _misfit(dict(mesh.shape), spec, aval.shape):
        raise ValueError(f"{where}: cannot pin {aval.str_short()} to {spec}: {reason}")
    return NamedSharding(mesh, spec)


def _misfit(sizes: Mapping[Any, int], spec: PartitionSpec, shape: Sequence[int]) -> str:
    """Why the spec cannot lay out an array of this shape; empty if it can."""
    dims = [dim if isinstance(dim, tuple) else (dim,) for dim in spec]
    axes = [[axis for axis in dim if axis not in (None, PartitionSpec.UNCONSTRAINED)] for dim in dims]
    used = [axis for dim in axes for axis in dim]
    if len(spec) > len(shape):
        return f"the spec has {len(spec)} dims, the value {len(shape)}"
    if strange := [axis for axis in used if axis not in sizes]:
        return f"the mesh has no axis {strange[0]!r}, only {', '.join(map(repr, sizes))}"
    if len(used) != len(set(used)):
        return "an axis may split one dim only"
    shards = [math.prod(sizes[axis] for axis in dim) for dim in axes]
    uneven = [f"{size} is not divisible by {n}" for size, n in zip(shape, shards) if size % n]
    return uneven[0] if uneven else ""


def _check_paths(closed: Any, pins: Mapping[Path, Pin], borders: Mapping[Path, Specs]) -> None:
    eqns = dict(jaxpr.walk(closed))
    bodies = {()} | {(*path, key) for path, eqn in eqns.items() for key, _ in jaxpr.subjaxprs(eqn)}
    unknown = [jaxpr.show(path) for path in pins if path not in eqns]
    unknown += [jaxpr.show(path) for path in borders if path not in bodies]
    if unknown:
        raise ValueError(f"no such equation or body: {', '.join(unknown)}; take paths from walk() on this very program")
    for path in (*pins, *borders):
        if any(jaxpr.primitive_name(eqn) == "shard_map" for eqn in jaxpr.enclosing(closed, path)):
            raise ValueError(
                f"{jaxpr.locate(path)}: inside of a shard_map the layout is given; pin the shard_map itself"
            )


def _inserted(eqn: Any) -> Hashable | None:
    ours = str(eqn.source_info.name_stack).split("/")[-1] == SCOPE
    return eqn.params["sharding"] if ours and jaxpr.primitive_name(eqn) == "sharding_constraint" else None
