"""The user's word: specs of arguments and results, checked before they become hard constraints."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from planner.build import Pins
from planner.errors import MeshError, SpecConflictError
from planner.sharding import MeshShape, canonical, names_of
from planner.trace import Program


def user_pins(program: Program, in_shardings: Any, out_shardings: Any, mesh: MeshShape) -> Pins:
    """One spec or None per flat argument and result, from pytree prefixes as `jax.jit` takes them.

    Raises:
        SpecConflictError: A spec does not fit its value, or donated state is to enter and leave in two specs.
        MeshError: A spec names an axis that the mesh does not have.
    """
    jaxpr = program.closed.jaxpr
    inputs = _inputs(in_shardings, program.in_tree)
    outputs = _flat(out_shardings, program.out_tree, "out_shardings")
    results = [f"result {i}" for i in range(len(outputs))]
    ins = tuple(_checked(s, v.aval.shape, n, mesh) for s, v, n in zip(inputs, jaxpr.invars, program.names))
    outs = tuple(_checked(s, v.aval.shape, n, mesh) for s, v, n in zip(outputs, jaxpr.outvars, results))
    return _tied(program, ins, outs)


def _flat(prefix: Any, tree: Any, what: str) -> list[Any]:
    """A prefix tree spread over all leaves."""
    full = jax.tree.unflatten(tree, list(range(tree.num_leaves)))
    try:
        return jax.tree.leaves(jax.tree.broadcast(prefix, full, is_leaf=_is_spec), is_leaf=_is_spec)
    except ValueError as error:
        raise SpecConflictError(f"{what} is no prefix of the pytree that it speaks of: {error}") from error


def _inputs(prefix: Any, tree: Any) -> list[Any]:
    """Specs of all arguments: `in_shardings` speaks of those by position, and one that is no tuple of all of them."""
    full = jax.tree.unflatten(tree, list(range(tree.num_leaves)))
    everywhere = _is_spec(prefix) or not isinstance(prefix, tuple)
    given = (prefix,) * len(full[0]) if everywhere else prefix
    return _flat((given, None), tree, "in_shardings")


def _is_spec(x: Any) -> bool:
    return x is None or isinstance(x, PartitionSpec | NamedSharding)


def _checked(spec: Any, shape: Sequence[int], name: str, mesh: MeshShape) -> PartitionSpec | None:
    """The canonical spec of one value."""
    if spec is None:
        return None
    if not _is_spec(spec):
        raise SpecConflictError(f"{name}: {spec!r} is no spec: give a PartitionSpec, a NamedSharding or None")
    spec = spec.spec if isinstance(spec, NamedSharding) else spec
    check_axes(spec, name, mesh)
    if len(spec) > len(shape):
        raise SpecConflictError(
            f"{name} has {len(shape)} dims, its spec {spec} names {len(spec)}: drop the last entries"
        )
    return canonical(spec, len(shape))


def check_axes(spec: PartitionSpec, name: str, mesh: MeshShape) -> None:
    """Raises MeshError for an axis that the mesh does not have, SpecConflictError for one that is used twice."""
    used = [axis for entry in spec for axis in names_of(entry)]
    unknown = [axis for axis in used if axis not in mesh.names]
    if unknown:
        raise MeshError(f"{name}: spec {spec} names mesh axis {unknown[0]!r}; the mesh has {mesh}")
    if len(set(used)) < len(used):
        raise SpecConflictError(f"{name}: spec {spec} uses a mesh axis twice")


def _tied(program: Program, inputs: tuple, outputs: tuple) -> Pins:
    """Donated state is one value: a spec on either side holds for both, two different ones are a conflict."""
    ins = list(inputs)
    for o, i in _donations(program):
        if outputs[o] is None:
            continue
        if ins[i] is not None and ins[i] != outputs[o]:
            raise SpecConflictError(
                f"{program.names[i]} is donated and result {o} takes its place, but in_shardings says {ins[i]} and "
                f"out_shardings {outputs[o]}: give both the same spec, or do not donate it"
            )
        ins[i] = outputs[o]
    return Pins(tuple(ins), outputs)


def _donations(program: Program) -> Iterator[tuple[int, int]]:
    yield from program.ties().items()
