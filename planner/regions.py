"""Which parts of a plan are commanded: runs of equations with collectives between them, as data for `passes.region`.

A plan says for every equation which mesh axes split each factor of its rule, and so what one device computes and in
which layout it wants its operands. Equations next to each other that a device can compute on its shards alone form a
run; where values move inside of a run, it becomes a region, and the moves are what the plan priced. Everything else is
annotated: what needs no collective, loops (their bodies have runs of their own), what needs the position of the device
and is not `PLACED`.

State that a body updates in place, such as a KV cache, lies in it as it does outside. A TPU compiler would rather have
it as the update or its readers like it, and copy all of it before and after the loop.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any

from jax.numpy import issubdtype, number
from jax.sharding import Mesh

from passes import jaxpr
from passes.collective_matmul import Site, on_shards
from passes.in_parts import after, cut_operand, in_parts, leading_scatters, least, pays
from passes.jaxpr import Path
from passes.layout import compact, laid_out
from passes.lookup import lookup
from passes.ragged import ragged
from passes.region import SCOPE, Local, Region
from passes.rows import single_row, two_rows
from passes.way import Shard, Torus, nearest, steps
from planner.cost.torus import torus_walks
from planner.plan import Operation, Plan, Spec
from planner.rules import Rule, rule_for
from planner.rules.local import local_params
from planner.trace import Program

IDENTITIES = ("sharding_constraint", "reshard")
LAYOUTS = ("sharding", "out_sharding")


def regions_of(program: Program, plan: Plan, mesh: Any) -> dict[Path, Region]:
    """The regions of a plan, by the path of their first equation. A mesh whose devices stand on a torus says so."""
    found: dict[Path, Region] = {}
    torus = torus_walks(mesh)
    operations, sites = {jaxpr.parse(op.path): op for op in plan.operations}, plan.rings()
    device = mesh.devices.flat[0] if isinstance(mesh, Mesh) else None
    kind = device.device_kind if device and device.platform == "tpu" else ""
    for path, body in _bodies(program.closed):
        found |= _Body(path, body, plan, operations, sites, kind, torus).regions()
    return found


def _bodies(closed: Any) -> Iterator[tuple[Path, Any]]:
    yield (), closed.jaxpr
    for path, eqn in jaxpr.walk(closed):
        yield from (((*path, key), body) for key, body in jaxpr.subjaxprs(eqn))


def local_of(eqn: Any, operation: Operation, mesh: Mapping[str, int]) -> Local | None:
    """What one device does for an equation; None where it cannot do so alone."""
    name, shapes = jaxpr.primitive_name(eqn), ([v.aval.shape for v in eqn.invars], [v.aval.shape for v in eqn.outvars])
    rule = rule_for(name, *shapes, eqn.params)
    if rule is None or len(rule.sizes) != len(operation.splits) or not jaxpr.is_plain(eqn):
        return None
    if any(hasattr(v, "val") and any(_dims(rule.operands[i], operation)) for i, v in enumerate(eqn.invars)):
        return None  # an array written into the program is whole
    ways = {f: prod(mesh[axis] for axis in axes) for f, axes in enumerate(operation.splits) if axes}
    whole = {k: None if k in LAYOUTS else v for k, v in eqn.params.items()}
    params = None if name in IDENTITIES else local_params(rule, whole, ways)
    operands = tuple(_operand(rule, operation, i, v) for i, v in enumerate(eqn.invars))
    results = tuple(_results(rule, operation, r) for r in range(len(eqn.outvars)))
    if not any(operation.splits[f] for f in rule.positional):
        return Local(operands, results, params)
    placed = PLACED[name](eqn, rule, operation, params, ways) if name in PLACED else None
    return None if placed is None else Local(operands, results, params, placed)


def _lookup(
    eqn: Any, rule: Rule, operation: Operation, params: Any, ways: Mapping[int, int]
) -> Callable[..., Any] | None:
    """A lookup in a table some of whose rows a device has; rows that are no numbers do not add up."""
    if not issubdtype(eqn.outvars[0].aval.dtype, number):
        return None
    split = {d: operation.splits[f] for d, dim in enumerate(rule.operands[0]) for f in dim if f in rule.positional}
    return lookup(eqn, params, {d: (axes, eqn.invars[0].aval.shape[d]) for d, axes in split.items() if axes})


def _ragged(eqn: Any, rule: Rule, operation: Operation, params: Any, ways: Mapping[int, int]) -> Callable[..., Any]:
    """A ragged dot of some rows or groups. The groups are the one factor that the left side does not have."""
    left = {f for dim in rule.operands[0] for f in dim}
    group = next((f for f in rule.positional if f not in left), None)
    rows = next((operation.splits[f] for f in rule.positional if f in left), ())
    if group is None:
        return ragged(eqn, params, rows, (), 1)
    return ragged(eqn, params, rows, operation.splits[group], rule.sizes[group] // ways.get(group, 1))


PLACED = {"gather": _lookup, "ragged_dot_general": _ragged}
"""What a device that knows its position does, by primitive."""


def ring_of(path: Path, eqn: Any, operation: Operation, site: Site) -> Local | None:
    """What one device does for a matmul that runs a collective; None where it cannot do so alone."""
    ring = operation.ring
    if ring is None or not jaxpr.is_plain(eqn):
        return None
    made = Shard(ring.out, frozenset(ring.opened))
    return Local((Shard(ring.lhs), Shard(ring.rhs)), (_through(made, operation, 0),), None, on_shards(path, eqn, site))


def kept(eqn: Any, local: Local, mesh: Mapping[str, int]) -> Local:
    """The same, its result laid out as an argument would be."""
    aval = eqn.outvars[0].aval
    order = compact(_shard_shape(aval, local.results[0][0], mesh), aval.dtype.itemsize)
    return replace(local, instead=lambda *xs: laid_out(jaxpr.bind(eqn, *xs, params=local.params)[0], order))


def rowed(eqn: Any, local: Local, mesh: Mapping[str, int]) -> Local:
    """The same; a matmul one of whose operands has a single row there gets a second."""
    if jaxpr.primitive_name(eqn) != "dot_general" or local.params is None or not all(local.operands):
        return local
    avals = [v.aval for v in eqn.invars]
    lhs, rhs = (_shard_shape(a, shard, mesh) for a, shard in zip(avals, local.operands) if shard)
    single = single_row((lhs, rhs), eqn.params["dimension_numbers"])
    if single is None or any(a.dtype.itemsize > 2 for a in avals):  # the matrix unit would round wider ones
        return local
    return replace(local, instead=two_rows(local.params, single))


def _shard_shape(aval: Any, shard: Shard, mesh: Mapping[str, int]) -> list[int]:
    return [size // prod(mesh[axis] for axis in axes) for size, axes in zip(aval.shape, shard.dims)]


def at_once(eqn: Any, local: Local, want: Shard, mesh: Mapping[str, int], torus: Torus, at_least: int) -> Local:
    """The same; a matmul whose result goes on to be scattered along its last dim does so itself."""
    made, *pins = local.results[0]
    aval, scatters = eqn.outvars[0].aval, leading_scatters(made, want, torus)
    shape = _shard_shape(aval, made, mesh)
    if local.params is None or not scatters or not pays(shape, aval.dtype.itemsize, scatters, mesh, at_least):
        return local
    way = _path(after(made, scatters), *pins)
    return replace(local, results=(way,), instead=in_parts(eqn, local.params, scatters, mesh, SCOPE))


def _operand(rule: Rule, operation: Operation, i: int, v: Any) -> Shard | None:
    if hasattr(v, "val"):
        return None
    opened = operation.through if operation.through and i in rule.linear[operation.group] else ()
    return Shard(_dims(rule.operands[i], operation), frozenset(opened))


def _results(rule: Rule, operation: Operation, r: int) -> tuple[Shard, ...]:
    """The layout as computed, then the pins that it passes through."""
    kept = {f for dim in rule.results[r] for f in dim}
    partial = [f for f in rule.reduced if f not in kept and operation.splits[f]]
    axes = {axis for f in partial for axis in operation.splits[f]} | set(operation.through)
    how = rule.reduced[partial[0]] if partial else "sum"
    made = Shard(_dims(rule.results[r], operation), frozenset(axes), how)
    return _through(made, operation, r)


def _through(made: Shard, operation: Operation, r: int) -> tuple[Shard, ...]:
    return _path(made, *map(Shard, operation.results[r]))


def _path(made: Shard, *pins: Shard) -> tuple[Shard, ...]:
    return made, *(shard for shard in pins if shard != made)


def _dims(dims: Sequence[Sequence[int]], operation: Operation) -> Spec:
    return tuple(tuple(axis for f in dim for axis in operation.splits[f]) for dim in dims)


@dataclass
class _Body:
    """One body, for TPUs of a `kind` or for other devices.

    `known` are the layouts of values that come from outside of a region.
    """

    path: Path
    jaxpr: Any
    plan: Plan
    operations: Mapping[Path, Operation]
    sites: Mapping[Path, Site]
    kind: str
    torus: Torus
    known: dict[Any, Shard] = field(default_factory=dict)
    locals: Sequence[Local | None] = ()

    def regions(self) -> dict[Path, Region]:
        """The regions, from front to back."""
        self.known = dict(_shards(self.jaxpr.invars, self._border("inputs")))
        self.locals = [self._local(i, eqn) for i, eqn in enumerate(self.jaxpr.eqns)]
        found, i = {}, 0
        while i < len(self.locals):
            run = _Run(self, i, self.locals)
            if run.moves or run.closes:
                found[*self.path, i] = run.region()
            else:
                run.forget()
            i = max(run.stop, i + 1)
        return found

    def _border(self, side: str) -> Sequence[Spec | None]:
        if not self.path:
            return [v.spec for v in (self.plan.arguments if side == "inputs" else self.plan.results)]
        body = self.plan.bodies.get(jaxpr.show(self.path))
        return getattr(body, side) if body else ()

    def _local(self, i: int, eqn: Any) -> Local | None:
        operation = self.operations.get((*self.path, i))
        if operation is None or (not operation.splits and operation.primitive == "loop"):
            return None
        if operation.ring:
            return ring_of((*self.path, i), eqn, operation, self.sites[*self.path, i])
        local = local_of(eqn, operation, self.plan.mesh)
        if local is None or not self.kind:
            return local
        return kept(eqn, local, self.plan.mesh) if self.updates(eqn) else rowed(eqn, local, self.plan.mesh)

    def updates(self, eqn: Any) -> bool:
        """Whether an equation writes a slice of what the body takes into what it gives."""
        is_update = jaxpr.primitive_name(eqn) == "dynamic_update_slice"
        return is_update and eqn.invars[0] in self.jaxpr.invars and eqn.outvars[0] in self.jaxpr.outvars

    def remember(self, i: int) -> None:
        """Where an equation that is in no region leaves its results."""
        operation = self.operations.get((*self.path, i))
        if operation is not None:
            pins = [chain[-1] if chain else None for chain in operation.results]
            self.known.update(_shards(self.jaxpr.eqns[i].outvars, pins))

    def wanted(self, v: Any, start: int) -> Shard | None:
        """The layout that the border of the body, or else the first reader behind a run, wants a value in."""
        border = dict(_shards(self.jaxpr.outvars, self._border("outputs")))
        if v in border:
            return border[v]
        for i, eqn in enumerate(self.jaxpr.eqns[start:], start):
            operation = self.operations.get((*self.path, i))
            chains = operation.operands if operation is not None else ()
            pins = [chain[-1] for w, chain in zip(eqn.invars, chains) if w is v and chain]
            if pins:
                return Shard(pins[0])
        return None

    def leaves_at_once(self, v: Any, start: int) -> bool:
        """Whether a value is only handed out of the body."""
        return not self._readers(v, start)

    def asked_for(self, v: Any, start: int) -> bool:
        """Whether one equation alone reads a value, such as a loop, that can only ask the compiler to move it."""
        readers = self._readers(v, start)
        return len(readers) == 1 and self.locals[readers[0]] is None and v not in self.jaxpr.outvars

    def _readers(self, v: Any, start: int) -> Sequence[int]:
        return [i for i, eqn in enumerate(self.jaxpr.eqns[start:], start) if any(w is v for w in eqn.invars)]


def _shards(variables: Sequence[Any], specs: Sequence[Spec | None]) -> Iterator[tuple[Any, Shard]]:
    for v, spec in zip(variables, specs):
        if not hasattr(v, "val"):
            if spec is not None and len(spec) == len(v.aval.shape):
                yield v, Shard(spec)
            elif not v.aval.shape:
                yield v, Shard(())


class _Run:
    """Equations from `start` on that a device computes alone; `moves` counts the collectives among them.

    `known` are the layouts that each value has been in, first the one that it rests in.
    """

    def __init__(self, body: _Body, start: int, locals_: Sequence[Local | None]):
        self.body, self.start, self.stop = body, start, start
        self.known: dict[Any, list[Shard]] = {}
        self.inputs: dict[Any, Shard] = {}
        self.equations: list[Local] = []
        self.moves = 0
        for eqn, local in zip(body.jaxpr.eqns[start:], locals_[start:]):
            if local is None or not self.takes(eqn, local):
                break
            self.add(eqn, local)

    def takes(self, eqn: Any, local: Local) -> bool:
        """Whether every operand can be had as wanted: an open sum comes only from within."""
        wanted = [(v, shard) for v, shard in zip(eqn.invars, local.operands) if shard is not None and shard.open]
        return all(any(shard.open <= have.open for have in self.known.get(v, ())) for v, shard in wanted)

    def add(self, eqn: Any, local: Local) -> None:
        local = replace(local, shared=tuple(self.shared(eqn)))
        for v, shard in [*zip(eqn.invars, local.shared), *zip(eqn.invars, local.operands)]:
            if shard is not None:
                self.read(v, shard)
        for v, way in zip(eqn.outvars, local.results):
            self.known[v] = list(reversed(way))
            self.moves += sum(_collectives(*pair) for pair in pairwise(way)) + (local.instead is not None)
        self.equations.append(local)
        self.stop += 1

    def shared(self, eqn: Any) -> Iterator[Shard | None]:
        """The layouts of copies that several share, by operand: the first of two pins.

        Not of an open sum, and not of what is there already as the second one has it.
        """
        operation = self.body.operations.get((*self.body.path, self.stop))
        for v, chain in zip(eqn.invars, operation.operands if operation else ()):
            pins = [Shard(spec) for spec in chain]
            have = self.known.get(v, [self.body.known.get(v)]) if len(pins) > 1 else pins
            yield pins[0] if pins[1:] and pins[1] not in have and not any(s and s.open for s in have) else None

    def read(self, v: Any, shard: Shard) -> None:
        if v not in self.known:
            self.inputs[v] = self.body.known.get(v, shard.closed)
            self.known[v] = [self.inputs[v]]
        if shard not in self.known[v]:
            self.moves += _collectives(nearest(self.known[v], shard), shard)
            self.known[v].append(shard)

    def region(self) -> Region:
        """The region, with what it hands on known to the body."""
        ins, outs = jaxpr.border(self.body.jaxpr, self.start, self.stop)
        handed = {v: self.handed_on(v) for v in outs}
        self.body.known |= handed
        equations = (self.at_once(eqn, local, handed) for eqn, local in zip(self.eqns, self.equations))
        return Region(tuple(equations), tuple(self.inputs[v] for v in ins), tuple(handed.values()), self.body.torus)

    @property
    def eqns(self) -> Sequence[Any]:
        """The equations."""
        return self.body.jaxpr.eqns[self.start : self.stop]

    def at_once(self, eqn: Any, local: Local, handed: Mapping[Any, Shard]) -> Local:
        """A matmul with the scatter of its sum, where nothing else reads the sum."""
        if jaxpr.primitive_name(eqn) != "dot_general" or local.instead:
            return local
        (v,) = eqn.outvars
        wanted = [*local.results[0][1:2], *self.wanted_of(v), *([handed[v]] if v in handed else [])]
        if not wanted or any(shard.open & local.results[0][0].open for shard in wanted[1:]):
            return local
        at_least = least(self.body.kind, self.copied(eqn, local))
        return at_once(eqn, local, wanted[0], self.body.plan.mesh, self.body.torus, at_least)

    def copied(self, eqn: Any, local: Local) -> int:
        """Bytes of the operand that a result in parts has cut, unless it is an argument of the program."""
        cut = cut_operand(eqn)
        v, shard = eqn.invars[cut], local.operands[cut]
        if shard is None or (not self.body.path and v in self.body.jaxpr.invars):
            return 0
        return v.aval.dtype.itemsize * prod(_shard_shape(v.aval, shard, self.body.plan.mesh))

    def wanted_of(self, v: Any) -> Iterator[Shard]:
        """The layouts in which the run reads a value."""
        for eqn, local in zip(self.eqns, self.equations):
            yield from (shard for w, shard in zip(eqn.invars, local.operands) if w is v and shard is not None)

    def handed_on(self, v: Any) -> Shard:
        """Where a value lies for those outside: whole, or where a loop or the border wants it that alone reads it."""
        home, wanted = self.known[v][0], self.body.wanted(v, self.stop)
        if home.open or self.body.leaves_at_once(v, self.stop) or self.body.asked_for(v, self.stop):
            return wanted or home.closed
        return home

    @property
    def closes(self) -> bool:
        """Whether an open sum is closed where the run ends, or a value moved for a loop."""
        outs = jaxpr.border(self.body.jaxpr, self.start, self.stop)[1]
        return any(self.known[v][0].open or self._moves_on(v) for v in outs)

    def _moves_on(self, v: Any) -> bool:
        moved = _collectives(self.known[v][0], self.handed_on(v)) > 0
        return moved and self.body.asked_for(v, self.stop)

    def forget(self) -> None:
        """Equations without moves between them are annotated; so is the one that ends a run."""
        for i in range(self.start, max(self.stop, self.start + 1)):
            self.body.remember(i)


def _collectives(have: Shard, want: Shard) -> int:
    return sum(step.kind != "slice" for step in steps(have, want))
