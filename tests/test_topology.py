"""Compile-only devices; what needs libtpu is skipped without the extra `tpu-aot`."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from planner.audit import topology
from planner.audit.schedule import timer_of
from planner.errors import AuditError

needs_libtpu = pytest.mark.skipif(not topology.has_libtpu(), reason="needs libtpu: pip install 'meshplan[tpu-aot]'")


@pytest.mark.parametrize("name", ["v4", "v4:4x", "v9:2x2", "4x4x4", "v4:4×4"])
def test_names_that_are_none(name):
    with pytest.raises(AuditError, match="v4:4x4x4"):
        topology.parse(name)


def test_without_libtpu_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(topology, "has_libtpu", lambda: False)
    with pytest.raises(AuditError, match=r"meshplan\[tpu-aot\]"):
        topology.topology_mesh("v4:4x4x4")


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x2", "v5e:2x4", "v5p:2x2x2", "v6e:2x4"])
def test_a_matmul_takes_about_its_roofline(name):
    """The compiler's cycles and our clock make the seconds of the datasheet's FLOP/s, or some more."""
    mesh = topology.topology_mesh(name, (8,), ("x",))
    n = 4096
    x, w = (jax.ShapeDtypeStruct((n, n), jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec())) for _ in "xw")
    text = jax.jit(jnp.matmul).lower(x, w).compile()
    found = timer_of(mesh).schedule(text)
    peak = {"v4": 275e12, "v5e": 197e12, "v5p": 459e12, "v6e": 918e12}[name.split(":")[0]]
    assert found.estimated
    assert 1.0 < found.seconds / (2 * n**3 / peak) < 1.5


@needs_libtpu
def test_a_mesh_that_does_not_fit():
    with pytest.raises(AuditError, match="v4:2x2x2"):
        topology.topology_mesh("v4:2x2x2", (3, 3), ("x", "y"))
