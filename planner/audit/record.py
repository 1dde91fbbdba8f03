"""The account of a compiled program as data: what people read, files keep and CI compares."""

import json

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Move(_Record):
    """A collective, planned or compiled.

    `nbytes` as in planner.cost.collectives, of one trip; `seconds` of all. A planned ring, inside of a matmul, travels
    in `chunks`, one for each device; a collective at once has none. Of a compiled one, `scope` is the name that
    JAX gave the operation, `by_update` says that it gathers by summing, `argument` is what it moves if that is an
    argument of the program.
    """

    kind: str
    axes: tuple[str, ...]
    nbytes: float
    trips: float
    seconds: float
    source: str
    chunks: int = 0
    scope: str = ""
    by_update: bool = False
    argument: str = ""

    @property
    def volume(self) -> float:
        """Bytes of all trips; an all_reduce moves its bytes twice."""
        return self.nbytes * self.trips * (2 if self.kind == "all_reduce" else 1) * bool(self.axes)


class Surprise(_Record):
    """A compiled collective that nobody planned, or that stands in for a cheaper one."""

    move: Move
    cause: str
    instead_of: str = ""


class Pair(_Record):
    """A planned collective and what it was compiled to."""

    planned: Move
    compiled: tuple[Move, ...]


class Memory(_Record):
    """Bytes of a chip. `aliased` outputs lie in the place of arguments and count once.

    `peak` is what is held at once where that is most. What is `allocated` may be more: temporaries lie in one block, in
    which there are gaps, and outputs that share their bytes with temporaries count with both.
    """

    arguments: float
    temporaries: float
    outputs: float
    aliased: float
    peak: float

    @property
    def allocated(self) -> float:
        """All parts together."""
        return self.arguments + self.temporaries + self.outputs - self.aliased


class Line(_Record):
    """Seconds of one source line, predicted and along the compiled schedule."""

    source: str
    local: float
    comms: float
    compute: float
    exposed: float
    hidden: float


class Audit(_Record):
    """What was compiled against what was planned.

    Attributes:
        planned: Whether there was a plan; without one there are no surprises, only moves.
        tolerance: Surprises below this share of the compiled bytes are no reason to fail.
        estimated: Whether the compiler estimated its computations: without, `seconds` are communication only.
        predicted_memory: Memory by part as planned; None without a plan. Its temporaries are what the peak leaves.
        compiled_memory: As the compiler allocates it; None where it does not tell.
        notes: What the account had to leave open.
    """

    function: str
    mesh: dict[str, int]
    machine: str
    planned: bool
    tolerance: float
    pairs: tuple[Pair, ...]
    surprises: tuple[Surprise, ...]
    missing: tuple[Move, ...]
    moves: tuple[Move, ...]
    predicted_seconds: float | None
    seconds: float
    compute: float
    exposed: float
    hidden: float
    estimated: bool
    predicted_memory: Memory | None
    compiled_memory: Memory | None
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def volume(self) -> float:
        """Bytes that the compiled program moves."""
        return sum(move.volume for move in self.moves)

    @property
    def surprising(self) -> float:
        """The share of these that nobody planned."""
        return sum(s.move.volume for s in self.surprises) / self.volume if self.volume else 0.0

    @property
    def absent(self) -> float:
        """Planned bytes that were not compiled, as a share of all planned ones."""
        total = sum(p.planned.volume for p in self.pairs) + sum(m.volume for m in self.missing)
        return sum(m.volume for m in self.missing) / total if total else 0.0

    @property
    def ok(self) -> bool:
        """No surprise that matters."""
        return self.surprising <= self.tolerance

    def to_json(self) -> str:
        """The account as text, for CI."""
        shares = {"ok": self.ok, "surprising": self.surprising, "absent": self.absent}
        return json.dumps(self.model_dump(mode="json") | shares, indent=1) + "\n"
