"""What compilers are told; what needs libtpu is skipped without the extra `tpu-aot`."""

from functools import partial

import jax
import jax.numpy as jnp
import programs
import pytest
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

import planner
from planner.audit import topology
from planner.audit.schedule import timer_of
from planner.options import TOLD

needs_libtpu = pytest.mark.skipif(not topology.has_libtpu(), reason="needs libtpu: pip install 'meshplan[tpu-aot]'")


def test_each_machine_that_is_told_something_is_a_preset():
    assert set(TOLD) <= set(planner.PRESETS)
    assert planner.compiler_options(AbstractMesh((4,), ("x",)), "tpu-v5e") == TOLD["tpu-v5e"]


def test_the_cpu_is_told_nothing():
    assert planner.compiler_options(programs.mesh(8)) == {}


def schedule(name, told):
    """A gather of one value beside products of another."""
    mesh = topology.topology_mesh(name, (8,), ("x",))

    def local(x, y, w):
        moved = lax.all_gather(y, "x", axis=1, tiled=True)
        return x @ w @ w, moved + 1

    specs = (P("x"), P(None, "x"), P())
    args = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, spec))
        for shape, spec in zip([(8 * 4096, 4096), (1024, 8 * 1024), (4096, 4096)], specs)
    ]
    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P("x"), P()), check_vma=False))
    options = planner.compiler_options(mesh) if told else None
    return timer_of(mesh).schedule(mapped.lower(*args).compile(compiler_options=options))


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:2x4", "v5p:2x2x2", "v6e:2x4"])
def test_the_compiler_knows_its_options(name):
    assert schedule(name, told=True).seconds > 0


@needs_libtpu
def test_a_gather_over_a_plane_stays_one_where_the_compiler_is_told_so():
    """128 kB from each of 64 chips: otherwise they are summed, twice the bytes."""
    mesh = topology.topology_mesh("v5e:8x8")
    args = jax.ShapeDtypeStruct((64 * 64, 1024), jnp.bfloat16, sharding=NamedSharding(mesh, P(("x", "y"))))
    gather = partial(lax.all_gather, axis_name=("x", "y"), tiled=True)
    mapped = jax.jit(jax.shard_map(gather, mesh=mesh, in_specs=P(("x", "y")), out_specs=P(), check_vma=False))
    for told, kind in ((planner.compiler_options(mesh), "all_gather"), (None, "all_reduce")):
        found = planner.audit(None, mapped.lower(args).compile(compiler_options=told), mesh)
        assert [m.kind for m in found.moves] == [kind]


@needs_libtpu
def test_a_gather_hides_where_the_compiler_is_told_so():
    told, untold = schedule("v4:2x2x2", told=True), schedule("v4:2x2x2", told=False)
    assert untold.hidden == 0 < told.hidden
    assert told.seconds < untold.seconds
