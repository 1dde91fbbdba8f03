"""Ragged dots of which a device has some rows or some groups."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import abstract_mesh, array
from jax import lax
from jax.sharding import PartitionSpec as P
from programs import mesh

from passes.jaxpr import walk
from passes.ragged import ragged
from planner import make_plan, testing

MESH = mesh(2, 4)
QUICK = {"xla_backend_optimization_level": 0}
draw = np.random.default_rng(0)
X, W, G = (draw.normal(size=s).astype(np.float32) for s in ((16, 8), (4, 8, 8), (16, 8)))
CONTRACTED = lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), (0,), ())
SIZES = [[4, 4, 4, 4], [1, 0, 9, 6], [0, 0, 0, 16], [3, 2, 0, 1], [0, 0, 0, 0]]


def free(x, w, sizes):
    return lax.ragged_dot(x, w, sizes)


def contracted(x, g, sizes):
    return lax.ragged_dot_general(x, g, sizes, CONTRACTED)


def local(fun, args, rows, groups, count):
    eqn = next(e for _, e in walk(jax.make_jaxpr(fun)(*args)) if e.primitive.name == "ragged_dot_general")
    return ragged(eqn, eqn.params, rows, groups, count)


@pytest.mark.parametrize(("rows", "groups"), [(("y",), ()), ((), ("y",)), (("x",), ("y",)), (("y",), ("x",))])
@pytest.mark.parametrize("fun", [free, contracted])
def test_shards_make_the_whole(fun, rows, groups):
    count = 4 // int(np.prod([MESH.shape[name] for name in groups]))
    other, summed = (W, groups) if fun is free else (G, rows)
    specs = P(rows), P(groups) if fun is free else P(rows), P()
    for sizes in SIZES:
        args = X, other, np.array(sizes, np.int32)
        part = local(fun, args, rows, groups, count)
        whole = jax.shard_map(
            lambda *a, part=part: lax.psum(part(*a), summed) if summed else part(*a),
            mesh=MESH,
            in_specs=specs,
            out_specs=P(rows) if fun is free else P(groups),
            check_vma=False,
        )
        np.testing.assert_allclose(jax.jit(whole)(*args), fun(*args), rtol=1e-5, atol=1e-5, err_msg=str(sizes))


@pytest.mark.parametrize(("rows", "groups"), list(product([P(), P("x"), P(("x", "y"))], [P(), P("y")]))[:-1])
def test_a_planned_mixture_is_what_it_was(rows, groups):
    def fun(x, w, sizes):
        return jnp.tanh(lax.ragged_dot(x, w, sizes)).sum(0)

    for sizes in SIZES[1:4:2]:
        options = {"mesh": MESH, "machine": testing.EAGER, "compiler_options": QUICK}
        args, slopes = (X, W, np.array(sizes, np.int32)), jax.grad(lambda *a: jnp.sum(fun(*a) ** 2), (0, 1))
        testing.assert_equivalent(fun, *args, in_shardings=(rows, groups, None), **options)
        testing.assert_equivalent(slopes, *args, in_shardings=(rows, groups, None), **options)


def test_groups_on_their_own_devices_need_one_reduction():
    """Weights stay where they are; what each device's experts make of the rows is summed."""
    given = {"in_shardings": (P(), P("x"), P()), "out_shardings": P()}
    args = array(4096, 1024), array(64, 1024, 4096), array(64, dtype=jnp.int32)
    plan = make_plan(free, *args, mesh=abstract_mesh(8), machine="tpu-v4", known=False, **given)
    kinds = {c.kind for c in plan.collectives}
    assert kinds in ({"all_reduce"}, {"reduce_scatter", "all_gather"})
    assert all(c.nbytes == 4096 * 4096 * 4 for c in plan.collectives)
    one = make_plan(free, *args, mesh=abstract_mesh(1), machine="tpu-v4", known=False)
    assert plan.operations[0].flops == one.operations[0].flops / 8 == 2 * 4096 * 4096 * 1024 / 8
