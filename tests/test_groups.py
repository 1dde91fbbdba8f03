"""Replica groups in their three notations, and the mesh axes that they span."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.audit.groups import groups_of, pairs_of, span
from planner.errors import AuditError
from planner.sharding import MeshShape

MESH = MeshShape(("x", "y", "z"), (2, 4, 2))


def grid(*axes: int) -> np.ndarray:
    """The groups along some axes of MESH."""
    ids = np.arange(16).reshape(MESH.sizes)
    rest = [a for a in range(3) if a not in axes]
    return ids.transpose(*rest, *axes).reshape(-1, int(np.prod([MESH.sizes[a] for a in axes])))


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7},{8,9},{10,11},{12,13},{14,15}}, x", (2,)),
        ("replica_groups={}, channel_id=1", (0, 1, 2)),
        ("replica_groups=[8,2]<=[16]", (2,)),
        ("replica_groups=[8,2]<=[2,8]T(1,0)", (0,)),
        ("replica_groups=[4,4]<=[2,4,2]T(0,2,1), dimensions={0}", (1,)),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=2] {'b'}, use_global_device_ids=true", (1,)),
        ("replica_groups=mesh['a'=2,'b'=4,'c'=2] {'a','c'}", (0, 2)),
        ("replica_groups=mesh['a'=8,'b'=2] {'a':(2)4}", (1,)),
        ("replica_groups=mesh['a'=16,'b'=1], device_ids=([2,4,2]T(1,0,2)) {'a'}", (1, 0, 2)),
    ],
)
def test_notations(text, axes):
    found = groups_of(f", {text}", 16)
    assert found is not None
    assert sorted(map(sorted, found.tolist())) == sorted(map(sorted, grid(*axes).tolist()))


@given(st.permutations(range(3)), st.integers(0, 2))
def test_an_iota_is_its_reshape_and_transpose(order, inside):
    sizes = (2, 4, 2)
    wide = int(np.prod([sizes[a] for a in order[3 - inside :]]))
    text = f"replica_groups=[{16 // wide},{wide}]<=[2,4,2]T({','.join(map(str, order))})"
    expected = np.arange(16).reshape(sizes).transpose(order).reshape(-1, wide)
    np.testing.assert_array_equal(groups_of(text, 16), expected)


@given(st.sets(st.integers(0, 2), min_size=1))
def test_span_is_the_axes_of_whole_groups(axes):
    found = span(grid(*sorted(axes)), MESH)
    assert found.axes == tuple(MESH.names[a] for a in sorted(axes))
    assert found.whole


def test_half_of_an_axis_is_no_whole_group():
    found = span([[0, 2], [4, 6]], MESH)
    assert (found.axes, found.whole, found.size) == (("y",), False, 2)


def test_pairs_of_a_permute():
    np.testing.assert_array_equal(pairs_of("source_target_pairs={{0,1},{1,0}}, metadata={}"), [[0, 1], [1, 0]])
    assert pairs_of("channel_id=1") is None


@pytest.mark.parametrize("text", ["replica_groups=?", "replica_groups={{0,1},{2}}"])
def test_notations_that_nobody_knows(text):
    with pytest.raises(AuditError):
        groups_of(text, 4)


def test_no_groups_at_all():
    assert groups_of("dimensions={0}", 4) is None
