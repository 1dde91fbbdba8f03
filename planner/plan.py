"""The plan: what was decided, as data that people review, files keep and programs replay."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any, ClassVar, Literal

import jax
from jax.sharding import NamedSharding, PartitionSpec
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from passes.collective_matmul import Site
from passes.constrain import Pin
from passes.jaxpr import Path, parse
from planner.errors import PlanFileError
from planner.sharding import MeshShape, to_spec

SCHEMA = 2
Spec = tuple[tuple[str, ...], ...]
Chain = tuple[Spec, ...]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Value(_Record):
    """An argument or a result.

    `nbytes` are those of one chip, padded to its tiles; `key` leads to it in the pytree; a result may take the `place`
    of a donated argument.
    """

    name: str
    key: tuple[tuple[str, str | int], ...]
    shape: tuple[int, ...]
    dtype: str
    spec: Spec
    nbytes: float
    place: str = ""


class Ring(_Record):
    """A collective inside of a matmul: kind, axes, specs of operands and result, and the axes that it leaves open.

    `order` are the devices along the axes as they stand round the ring; empty for in the order of their numbers.
    """

    kind: Literal["all_gather", "reduce_scatter"]
    axes: tuple[str, ...]
    lhs: Spec
    rhs: Spec
    out: Spec
    opened: tuple[str, ...] = ()
    order: tuple[int, ...] = ()


class Operation(_Record):
    """An equation: where it is, what it does in the paper's notation, how its operands and results are pinned.

    A pin is the specs that a value passes through, one after the other; an empty one leaves the value to the compiler:
    an open sum, or an operand that is wanted as it lies.
    `seconds` are those of local work, all `trips` together. `splits` are the mesh axes of each factor of its rule,
    major to minor; over the axes `through` it passes on an open sum, in group number `group` of its rule's linear
    operands.
    """

    path: str
    primitive: str
    source: str
    notation: str
    trips: float
    seconds: float
    flops: float
    operands: tuple[Chain, ...]
    results: tuple[Chain, ...]
    ring: Ring | None = None
    splits: tuple[tuple[str, ...], ...] = ()
    through: tuple[str, ...] = ()
    group: int = 0


class Body(_Record):
    """Pins of what enters and leaves one trip of a loop's body."""

    inputs: tuple[Spec | None, ...]
    outputs: tuple[Spec | None, ...]


class Collective(_Record):
    """A collective that the plan expects: `nbytes` as in planner.cost.collectives, of one trip; `seconds` of all.

    A `ring` runs inside of a matmul, whose seconds hold what it adds.
    """

    kind: str
    axes: tuple[str, ...]
    nbytes: float
    trips: float
    seconds: float
    value: str
    path: str
    source: str
    ring: bool = False


class Known(_Record):
    """A layout that people know by name, scored in the same program. `seconds` is None where it does not fit."""

    name: str
    axes: str
    seconds: float | None
    peak_bytes: float | None
    note: str = ""


class Holder(_Record):
    """What holds memory at the peak: bytes of one chip."""

    name: str
    nbytes: float


class Plan(_Record):
    """One strategy per equation, and what it should cost.

    Attributes:
        seconds: Predicted time of one call.
        bound: Proven lower bound on the predicted time of any plan in the same space.
        status: "optimal", or "feasible" when the work limit stopped the solver.
        peak_bytes: Predicted peak of a chip's memory; `limit` is what it may be.
        notes: What to know before relying on the plan.
        alike: Seconds more that it takes to keep equal layers of an unrolled program alike, as far as was found.
    """

    SCHEMA: ClassVar[int] = SCHEMA

    schema_version: int = SCHEMA
    versions: dict[str, str]
    program: str
    function: str
    mesh: dict[str, int]
    machine: str
    seconds: float
    bound: float
    status: str
    peak_bytes: float
    limit: float
    legend: str
    arguments: tuple[Value, ...]
    results: tuple[Value, ...]
    operations: tuple[Operation, ...]
    bodies: dict[str, Body]
    collectives: tuple[Collective, ...]
    known: tuple[Known, ...]
    holders: tuple[Holder, ...]
    notes: tuple[str, ...] = ()
    alike: float | None = None
    _timings: dict[str, float] = PrivateAttr(default_factory=dict)
    _trees: tuple[Any, Any] | None = PrivateAttr(default=None)
    _question: Any = PrivateAttr(default=None)  # a planner.question.Question, for `planner.why`

    @property
    def gap(self) -> float:
        """How far the plan may be from the best one, as a share of its seconds."""
        return max(0.0, self.seconds - self.bound) / self.seconds if self.seconds else 0.0

    @property
    def timings(self) -> Mapping[str, float]:
        """Wall-clock seconds of each planning stage. No part of the file: the same input gives the same file."""
        return self._timings

    @property
    def mesh_shape(self) -> MeshShape:
        """The mesh's axes."""
        return MeshShape(tuple(self.mesh), tuple(self.mesh.values()))

    @property
    def in_specs(self) -> Any:
        """PartitionSpec of each positional argument, in the arguments' own structure (see `tree_of`)."""
        return self._tree(0, self.arguments, [to_spec(v.spec) for v in self.arguments])

    @property
    def out_specs(self) -> Any:
        """PartitionSpec of each result, in the result's own structure (see `tree_of`)."""
        return self._tree(1, self.results, [to_spec(v.spec) for v in self.results])

    def abstract_args(self, mesh: Any) -> Any:
        """The arguments as ShapeDtypeStructs with shardings on `mesh`: what orbax restores into."""
        leaves = [
            jax.ShapeDtypeStruct(v.shape, v.dtype, sharding=NamedSharding(mesh, to_spec(v.spec)))
            for v in self.arguments
        ]
        return self._tree(0, self.arguments, leaves)

    def _tree(self, side: int, values: Sequence[Value], leaves: Sequence[Any]) -> Any:
        """The traced function's own pytree where at hand, else one of dicts and tuples; `(args, kwargs)` gives args."""
        if self._trees is None:
            tree = tree_of([v.key for v in values], leaves)
        else:
            tree = jax.tree.unflatten(self._trees[side], leaves)
        return tree if side == 1 else tree[0]

    def pins(self) -> dict[Path, Pin]:
        """What `passes.constrain` pins at each equation."""
        return {
            parse(op.path): Pin(tuple(map(_chain, op.operands)), tuple(map(_chain, op.results)))
            for op in self.operations
            if any((*op.operands, *op.results))
        }

    def rings(self) -> dict[Path, Site]:
        """The matmuls that `passes.collective_matmul` makes rings."""
        return {
            parse(op.path): Site(r.kind, r.axes, to_spec(r.lhs), to_spec(r.rhs), to_spec(r.out), r.opened, r.order)
            for op in self.operations
            if (r := op.ring)
        }

    def borders(self, side: str) -> dict[Path, tuple[PartitionSpec | None, ...]]:
        """What `passes.constrain` pins at the "inputs" or "outputs" of each loop body."""
        return {parse(path): tuple(map(_maybe, getattr(body, side))) for path, body in self.bodies.items()}

    def to_json(self) -> str:
        """The file's text: indented, in a fixed order."""
        return self.model_dump_json(indent=1) + "\n"

    @property
    def fingerprint(self) -> str:
        """Equal for equal plans."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def save(self, file: "str | File") -> None:
        """Writes the plan as JSON."""
        File(file).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, file: "str | File") -> "Plan":
        """Reads a plan. Raises PlanFileError for a file that is damaged or of a newer schema."""
        try:
            text = File(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanFileError(f"cannot read the plan {file}: {error}") from error
        return cls.from_json(text, str(file))

    @classmethod
    def from_json(cls, text: str, name: str = "plan") -> "Plan":
        """The plan in a JSON text; `name` stands in error messages."""
        try:
            version = _Version.model_validate_json(text).schema_version
            if version > SCHEMA:
                raise PlanFileError(
                    f"{name} has schema {version}, this meshplan reads up to {SCHEMA}: upgrade meshplan"
                )
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise PlanFileError(
                f"{name} is no whole plan file: {where}: {first['msg']}; make it again with `meshplan plan`"
            ) from error


class _Version(BaseModel):
    schema_version: int


def _chain(specs: Chain) -> tuple[PartitionSpec, ...] | None:
    return tuple(map(to_spec, specs)) or None


def _maybe(spec: Spec | None) -> PartitionSpec | None:
    return None if spec is None else to_spec(spec)


def key_of(path: Sequence[Any]) -> tuple[tuple[str, str | int], ...]:
    """A pytree path as data: ("key", name), ("index", i) or ("attr", name) for each step."""
    return tuple(_step(entry) for entry in path)


def _step(entry: Any) -> tuple[str, str | int]:
    for kind, field in (("index", "idx"), ("attr", "name"), ("key", "key")):
        if hasattr(entry, field):
            value = getattr(entry, field)
            return (kind, value if isinstance(value, int) else str(value))
    return ("key", str(entry))


def tree_of(keys: Sequence[Sequence[tuple[str, str | int]]], leaves: Sequence[Any]) -> Any:
    """A pytree from paths: tuples for sequences, dicts for everything that has names."""
    if len(keys) == 1 and not keys[0]:
        return leaves[0]
    branches: dict[tuple[str, str | int], list[int]] = {}
    for i, key in enumerate(keys):
        branches.setdefault(tuple(key[0]), []).append(i)  # type: ignore[arg-type]
    built = {step: tree_of([keys[i][1:] for i in rows], [leaves[i] for i in rows]) for step, rows in branches.items()}
    if all(kind == "index" for kind, _ in built):
        return tuple(built[step] for step in sorted(built, key=lambda s: int(s[1])))
    return {name: tree for (_, name), tree in built.items()}
