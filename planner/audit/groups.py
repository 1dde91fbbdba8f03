"""Which devices a collective joins, and which mesh axes they span.

HLO writes groups in three ways, all read here into one array of shape [groups, devices]:

    {{0,1},{2,3}}                                             a list; {} is everyone
    [2,4]<=[4,2]T(1,0)                                        an iota, reshaped and transposed
    mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}         a mesh and the axes (parts of axes) of a group

Numbers are positions in the program's mesh, row-major.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from planner.errors import AuditError
from planner.sharding import MeshShape

Array = np.ndarray
_LIST = re.compile(r"replica_groups=(\{(?:\{[\d,]*\},?)*\})")
_IOTA = re.compile(r"replica_groups=(\[[\d,]+\])<=(\[[\d,]+\](?:T\([\d,]+\))?)")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^{]*?)\))? \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?(?:=(\d+))?")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


@dataclass(frozen=True)
class Span:
    """The mesh axes that a group of devices spans.

    Attributes:
        axes: Mesh axes along which members of a group differ, in mesh order.
        whole: Whether each group is all devices along these axes; if not it is a part of them.
        size: Devices in a group.
    """

    axes: tuple[str, ...]
    whole: bool
    size: int


def groups_of(attributes: str, devices: int) -> Array | None:
    """The groups that an instruction's attributes name, [groups, devices]; None where they name none.

    Raises AuditError for a notation that is not known, or groups of unequal size.
    """
    if "replica_groups=" not in attributes:
        return None
    for pattern, read in _readers():
        if found := pattern.search(attributes):
            return read(*found.groups(), devices)
    start = attributes.index("replica_groups=")
    raise AuditError(f"unknown notation of replica groups: {attributes[start : start + 80]}")


def _readers() -> Sequence[tuple[re.Pattern[str], Callable[..., Array]]]:
    return (_MESH, _mesh), (_IOTA, _iota), (_LIST, _list)


def _list(text: str, devices: int) -> Array:
    rows = [[int(n) for n in row.split(",")] for row in re.findall(r"\{([\d,]+)\}", text)]
    if len({len(row) for row in rows}) > 1:
        raise AuditError(f"replica groups of unequal size: {text[:80]}")
    return np.array(rows) if rows else np.arange(devices)[None]


def _iota(shape: str, source: str, devices: int) -> Array:
    return _reshaped(source).reshape(_numbers(shape))


def _reshaped(text: str) -> Array:
    """`[4,2]T(1,0)` as device numbers in their new order."""
    sizes, _, order = text.partition("T")
    dims = _numbers(sizes)
    ids = np.arange(int(np.prod(dims))).reshape(dims)
    return ids.transpose(_numbers(order)).ravel() if order else ids.ravel()


def _mesh(axes: str, ids: str | None, chosen: str, devices: int) -> Array:
    names, sizes = zip(*((name, int(size)) for name, _, _, size in _AXIS.findall(axes)))
    numbers = np.arange(int(np.prod(sizes))) if ids is None else _device_ids(ids)
    parts = {name: (int(before or 1), int(size or 0)) for name, before, size, _ in _AXIS.findall(chosen)}
    split, inside = [], []
    for name, size in zip(names, sizes):
        before, part = parts.get(name, (size, 1))
        part = part or size
        inside.append(len(split) + 1)
        split += [before, part, size // (before * part)]
    outside = [i for i in range(len(split)) if i not in inside]
    grid = numbers.reshape(split).transpose(outside + inside)
    return grid.reshape(-1, int(np.prod([split[i] for i in inside])))


def _device_ids(text: str) -> Array:
    return _reshaped(text) if text.startswith("[") else np.array(_numbers(text))


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def pairs_of(attributes: str) -> Array | None:
    """The senders and receivers of a collective-permute, [pairs, 2]; None where there are none."""
    found = _PAIRS.search(attributes)
    return None if found is None else np.array(_numbers(found[1])).reshape(-1, 2)


def span(groups: Sequence[Sequence[int]] | Array, mesh: MeshShape) -> Span:
    """The mesh axes that groups (or pairs, for a permute) span."""
    places = np.stack(np.unravel_index(np.asarray(groups), mesh.sizes), axis=-1)
    differs = (places != places[:, :1]).any((0, 1))
    axes = tuple(name for name, differ in zip(mesh.names, differs) if differ)
    size = places.shape[1]
    return Span(axes, size == int(mesh.size[mesh.mask(axes)]), size)
