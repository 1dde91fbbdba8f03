"""A machine: a chip, the fabric between chips, and where their numbers come from. In TOML or JSON as in Python."""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path as File
from typing import Annotated, Any

import numpy as np
from jax.sharding import AbstractMesh, Mesh
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from planner.cost.fabric import Amount, Fabric, Link, Positive
from planner.cost.links import links_of
from planner.errors import MachineFileError

Share = Annotated[float, Field(gt=0, le=1)]
PARSERS: Mapping[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": json.loads}
REMEDY = "`meshplan machines --show tpu-v4` prints a file to start from"


@dataclass(frozen=True)
class Chip:
    """One chip, or whatever JAX calls one device.

    Attributes:
        flops: Peak FLOP/s by dtype name, in default precision; "float32" must be there.
        hbm_bytes: Bytes of memory.
        hbm_bandwidth: Bytes/s of that memory.
        tile: Buffers are padded to multiples of this in their last two dims (sublane, lane).
        mxu: The matrix unit pads contracted and output dims to multiples of this.
        flops_share: Share of peak FLOP/s that a large matmul reaches.
        hbm_share: Share of the peak bandwidth that a large copy reaches.
        reserved: Bytes of the memory that programs do not get.
        overhead: Seconds that any operation with a buffer of its own, and any collective, costs beside its work.
        ahead: Share of a gather that its compiler hides in a loop whose trips have what is gathered from their start,
            and work enough.
        word: Fewest bytes that an element takes in the vector unit, which moves as many bytes/s as memory does at its
            peak.
        passes: So many times longer a matmul of float32 takes in precision HIGH, and in HIGHEST.
        rounds: Whether its compiler rounds float32 operands of matmuls in default precision to bfloat16, and stores
            what it computes for them alone as such.
        on_chip: Bytes of the chip's own memory that its compiler fetches whole operands of a matmul to.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    flops: Mapping[str, Positive]
    hbm_bytes: Positive
    hbm_bandwidth: Positive
    tile: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] = (1, 1)
    mxu: Annotated[int, Field(gt=0)] = 1
    flops_share: Share = 1.0
    hbm_share: Share = 1.0
    overhead: Amount = 0.0
    reserved: Amount = 0.0
    ahead: Annotated[float, Field(ge=0, le=1)] = 0.0
    word: Annotated[int, Field(gt=0)] = 1
    passes: tuple[Positive, Positive] = (1.0, 1.0)
    rounds: bool = False
    on_chip: Amount = 0.0

    @property
    def usable_bytes(self) -> float:
        """Bytes of memory that a program may take."""
        return self.hbm_bytes - self.reserved

    def rate(self, dtype: str) -> float:
        """FLOP/s for operands of a dtype; f32 and integers without a rate of their own run at the f32 rate."""
        return self.flops_share * self.flops.get(dtype, self.flops["float32"])

    def times(self, dtype: str, precision: str) -> float:
        """How many times longer a matmul takes than in default precision."""
        passes = {"default": 1.0, "high": self.passes[0], "highest": self.passes[1]}
        return passes[precision] if dtype == "float32" else 1.0


@dataclass(frozen=True)
class Machine:
    """A chip and its fabric. Any other hardware is one more of these, in Python or as a file.

    Attributes:
        source: Where the numbers come from.
        outer_axes: Mesh axes that run from slice to slice, or node to node; empty to go by `device.slice_index`, else
            by `fabric.node` in row-major order.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    chip: Chip
    fabric: Fabric
    source: str = ""
    outer_axes: tuple[str, ...] = ()

    def links(self, mesh: Mesh | AbstractMesh) -> tuple[Link, ...]:
        """One link per mesh axis, from device coordinates where there are any. Raises MeshError."""
        return links_of(mesh, self.fabric, self.outer_axes)

    def across(self, *axes: str) -> "Machine":
        """This machine with mesh axes that run from slice to slice (node to node), as `outer_axes`."""
        return replace(self, outer_axes=axes)

    @classmethod
    def load(cls, file: str | PathLike[str]) -> "Machine":
        """A machine from a .toml or .json file. Raises MachineFileError, naming file, keys and remedy."""
        try:
            data = PARSERS[File(file).suffix](File(file).read_text(encoding="utf-8"))
        except KeyError:
            raise MachineFileError(f"{file}: not a {' or '.join(PARSERS)} file; {REMEDY}") from None
        except (OSError, ValueError) as error:
            raise MachineFileError(f"{file}: cannot be read: {error}; {REMEDY}") from error
        try:
            machine = TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            raise MachineFileError(f"{file}: {'; '.join(map(_complaint, error.errors()))}; {REMEDY}") from error
        _check_dtypes(machine.chip.flops, file)
        return machine

    def toml(self) -> str:
        """The file that `load` reads."""
        return "\n".join(_lines(asdict(self))) + "\n"


def _complaint(error: Any) -> str:
    key, kind = ".".join(map(str, error["loc"])) or "the file", error["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key} is no key; delete it or mend its spelling"
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing; add it"
    return f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _check_dtypes(flops: Mapping[str, float], file: str | PathLike[str]) -> None:
    """A misspelt dtype would silently run at the rate of float32."""
    if "float32" not in flops:
        raise MachineFileError(f"{file}: chip.flops.float32 is missing; it is the rate of every dtype without its own")
    for name in flops:
        if not _is_dtype(name):
            raise MachineFileError(f"{file}: chip.flops.{name} is no dtype; write it as JAX does, such as bfloat16")


def _is_dtype(name: str) -> bool:
    try:
        return np.dtype(name).name == name
    except TypeError:
        return False


def _lines(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """TOML: plain keys first, then tables."""
    for key, value in table.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from ("", f"[{path}{key}]", *_lines(value, f"{path}{key}."))


def _value(value: Any) -> str:
    """Numbers as people write them, where that is the same number."""
    short = f"{value:g}" if isinstance(value, float) else ""
    return (
        short if short and float(short) == value else json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    )
