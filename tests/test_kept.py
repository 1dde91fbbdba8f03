"""Whatever a program calls out to, planned it gives what it gives under plain `jax.jit`."""

import foreign
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import io_callback, pallas
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from programs import mesh

from planner import autoshard, testing

MESH, EXPLICIT = mesh(2, 4), mesh(2, 4, kind=AxisType.Explicit)
X, W = (np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(((8, 16), (16, 32))))
W_BACK = np.random.default_rng(2).normal(size=(16, 16)).astype(np.float32)


def plan(fun, *args, **options):
    return autoshard(fun, mesh=MESH, machine=testing.EAGER, **options).plan(*args)


def region(x, w, specs=("x", "y"), out=("x",), **options):
    body = jax.shard_map(
        lambda h: lax.psum(jnp.sin(h), "y"), mesh=MESH, in_specs=P(*specs), out_specs=P(*out), **options
    )
    return jnp.tanh(body(jnp.tanh(x @ w)))


def partial_region(x, w):
    return region(x, w, (None, "y"), (), axis_names={"y"})


def minor_region(x, w):
    body = jax.shard_map(lambda h: h * 2, mesh=MESH, in_specs=P(None, ("y", "x")), out_specs=P(None, ("y", "x")))
    return body(x @ w)


def kernel(x, w):
    def body(x, out):
        out[...] = jnp.sin(x[...])

    h = x @ w
    return pallas.pallas_call(body, out_shape=jax.ShapeDtypeStruct(h.shape, h.dtype), interpret=True)(h) * 2


def callback(x, w):
    h = x @ w
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(h.shape, h.dtype), h) + 1


def printed(x, w):
    h = x @ w
    jax.debug.callback(lambda _: None, h)
    return jnp.sin(h)


def mutable(x, w):
    ref = jax.new_ref(x @ w)
    ref[2:4] = ref[2:4] * 2
    ref[...] += 1
    return jax.freeze(ref)


def mutable_in_a_scan(x, w):
    ref = jax.new_ref(jnp.zeros((4, 8, 32)))

    def body(c, i):
        ref[i] = c @ w
        return jnp.tanh(c), None

    c, _ = lax.scan(body, x, jnp.arange(4))
    return ref[...], c


def solves(x, w):
    a = x @ x.T + 8 * jnp.eye(8)
    return jnp.linalg.solve(a, x), jnp.linalg.inv(a) @ x @ w


def iterated(x, w):
    return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w @ w.T)), (0, x))[1]


def unknown_trips(x, w):
    return lax.fori_loop(0, x.astype(int).sum() * 0 + 3, lambda i, c: jnp.tanh(c @ w @ w.T), x)


def switch(x, w):
    branches = [lambda x: x @ w, lambda x: jnp.sin(x) @ w, lambda x: x @ w * 2]
    return lax.switch((x.sum() > 0).astype(int) + 1, branches, x)


def other_peoples(x, w):
    return foreign.smoothed.bind(x @ w) * 2


@jax.custom_batching.custom_vmap
def batched(x):
    return jnp.sin(x)


batched.def_vmap(lambda size, batched, x: (jnp.sin(x), True))


def own_batching(x, w):
    return batched(x @ w)


def composite(x, w):
    return lax.composite(jnp.tanh, "my.tanh")(x @ w)


def platform(x, w):
    return lax.platform_dependent(x @ w, cpu=lambda x: x * 2, default=lambda x: x * 2)


SMOOTH = (region, partial_region, minor_region, solves, switch)
OTHERS = (kernel, callback, printed, mutable, mutable_in_a_scan, iterated, unknown_trips, other_peoples, own_batching)
REST = (composite, platform)


@pytest.mark.parametrize("fun", (*SMOOTH, *OTHERS, *REST), ids=lambda f: f.__name__)
def test_planned_it_gives_the_same(fun):
    testing.assert_equivalent(fun, X, W, mesh=MESH, machine=testing.EAGER, grad=fun in SMOOTH)


@pytest.mark.parametrize("fun", (kernel, mutable, switch, other_peoples), ids=lambda f: f.__name__)
def test_so_it_does_on_an_explicit_mesh(fun):
    testing.assert_equivalent(fun, X, W, mesh=EXPLICIT, machine=testing.EAGER)


def test_a_regions_specs_are_pins():
    done = plan(minor_region, X, W)
    (op,) = [op for op in done.operations if op.primitive == "shard_map"]
    assert op.results == ((((), ("y", "x")),),)
    assert "kept as it is" in done.notes[0]


def test_callbacks_stay_in_order():
    seen = []

    def fun(x, w):
        h = x @ w
        for name in "abc":
            io_callback(lambda _, name=name: seen.append(name), None, h, ordered=True)
        jax.debug.print("{}", h[0, 0])
        return h

    planned = autoshard(fun, mesh=MESH, machine=testing.EAGER)
    jax.block_until_ready(planned(X, W))
    jax.effects_barrier()
    assert seen == ["a", "b", "c"]


def test_a_kernels_author_knows_its_price():
    def body(x, out):
        out[...] = jnp.sin(x[...])

    def fun(x, estimate=None):
        spec = pallas.BlockSpec((2, 16), lambda i: (i, 0))
        call = pallas.pallas_call(
            body,
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            grid=(4,),
            in_specs=[spec],
            out_specs=spec,
            cost_estimate=estimate,
            interpret=True,
        )
        return call(x)

    def flops(estimate):
        return next(op.flops for op in plan(lambda x: fun(x, estimate), X).operations if op.primitive == "pallas_call")

    assert flops(pallas.CostEstimate(flops=100, transcendentals=10, bytes_accessed=0)) == 200
    assert flops(None) >= 10 * X.size


def test_hints_reach_the_plan():
    def trips(**options):
        done = plan(unknown_trips, X, W, **options)
        return max(op.trips for op in done.operations), done.notes[0]

    assert trips()[0] == 100
    assert trips(trips={"unknown_trips": 3})[0] == 3
    assert "(unknown_trips): 3 trips, as given" in trips(trips={"unknown_trips": 3})[1]
    assert "weighed 1, 2, 1" in plan(switch, X, W, weights={"switch": (1, 2, 1)}).notes[0]
