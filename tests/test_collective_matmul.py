import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.extend.core import check_jaxpr  # noqa: TID251
from jax.sharding import PartitionSpec as P

from passes import jaxpr
from passes.collective_matmul import Site, all_gather_matmul, fuse, matmul_reduce_scatter
from passes.jaxpr import Path
from passes.ring import all_gather_matmuls, rotated

MATMUL = (((1,), (0,)), ((), ()))


def whole_numbers(seed, shape, dtype):
    """Small whole numbers: every sum of the tests is exact in bfloat16, so values are equal and not merely close."""
    return jnp.asarray(np.random.default_rng(seed).integers(-2, 3, size=shape), dtype)


SIZES = [(2,), (4,), (8,), (2, 2), (2, 4), (4, 2)]


@dataclasses.dataclass(frozen=True)
class Dot:
    """A dot_general of loops b (batch), m, k, n, each of size 8, whose ring runs through the axes of a mesh."""

    lhs: str
    rhs: str
    sizes: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: type
    order: tuple[int, ...] = ()
    in_turn: bool = False

    @property
    def numbers(self):
        contracted, batch = (((self.lhs.index(x),), (self.rhs.index(x),)) for x in "kb")
        return contracted, batch


def lacking(lhs, dtype):
    """XLA's CPU lacks bkm: bf16 x bf16 = f32."""
    return lhs == "bkm" and dtype == jnp.bfloat16


@st.composite
def dots(draw):
    """Any order of the dims, of the axes, any sizes and dtype."""
    lhs, rhs = ("".join(draw(st.permutations(dims))) for dims in ("bmk", "bkn"))
    dtype = draw(st.sampled_from([jnp.float32, jnp.bfloat16]))
    sizes = draw(st.sampled_from(SIZES))
    axes = tuple(draw(st.permutations("xy"[: len(sizes)])))
    order = tuple(draw(st.just([]) | st.permutations(range(np.prod(sizes)))))
    return Dot("bmk" if lacking(lhs, dtype) else lhs, rhs, sizes, axes, dtype, order, draw(st.booleans()))


def every_dot(seed):
    """All sizes, dtypes in turn, each with its dims and axes in some order."""
    rng = np.random.default_rng(seed)
    mixed = lambda names: "".join(rng.permutation(list(names)))  # noqa: E731
    for i, sizes in enumerate(SIZES):
        dtype = (jnp.float32, jnp.bfloat16)[(seed + i) % 2]
        lhs, rhs, axes = mixed("bmk"), mixed("bkn"), tuple(mixed("xy"[: len(sizes)]))
        order = tuple(rng.permutation(np.prod(sizes)).tolist()) if i % 2 else ()
        yield Dot("bmk" if lacking(lhs, dtype) else lhs, rhs, sizes, axes, dtype, order, in_turn=i % 3 == 2)


def spec(dims, **axes):
    return P(*(axes.get(dim) for dim in dims))


def same(run, terms, dtype):
    """Values and gradients of a function of two operands are those of an einsum, exactly."""
    args = [whole_numbers(i, (8, 8, 8), dtype) for i in range(2)]
    weight = whole_numbers(2, (8, 8, 8), dtype) / 2
    loss = lambda a, b: (jnp.sum((out := run(a, b)).astype(jnp.float32) * weight), out)  # noqa: E731
    quick = {"xla_backend_optimization_level": 0}
    (_, out), grads = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True), compiler_options=quick)(*args)
    a, b, w = (np.asarray(x, np.float64) for x in (*args, weight))
    (lhs, rhs), result = terms.split("->")[0].split(","), terms.split("->")[1]
    assert out.dtype == dtype
    np.testing.assert_array_equal(np.asarray(out, np.float64), np.einsum(terms, a, b))
    np.testing.assert_array_equal(np.asarray(grads[0], np.float64), np.einsum(f"{result},{rhs}->{lhs}", w, b))
    np.testing.assert_array_equal(np.asarray(grads[1], np.float64), np.einsum(f"{result},{lhs}->{rhs}", w, a))


def fused(site, sizes, numbers, dtype):
    args = [jax.ShapeDtypeStruct((8, 8, 8), dtype)] * 2
    closed = jax.make_jaxpr(lambda a, b: jax.lax.dot_general(a, b, numbers))(*args)
    new = fuse(closed, {(0,): site}, programs.mesh(*sizes))
    check_jaxpr(new.jaxpr)
    assert "ppermute" in [jaxpr.primitive_name(eqn) for _, eqn in jaxpr.walk(new)]
    return lambda a, b: jaxpr.as_fun(new)(a, b)[0]


def gathered(dot, operand, dim, by_hand):
    split = spec((dot.lhs, dot.rhs)[operand], **{dim: dot.axes})
    specs = (P(), split) if operand else (split, P())
    if not by_hand:
        site = Site("all_gather", dot.axes, specs[0], specs[1], P(), order=dot.order)
        return fused(site, dot.sizes, dot.numbers, dot.dtype)
    where = {"axis_name": dot.axes, "gather_dim": (dot.lhs, dot.rhs)[operand].index(dim), "operand": operand}
    local = functools.partial(all_gather_matmul, dimension_numbers=dot.numbers, order=dot.order, **where)
    return jax.shard_map(local, mesh=programs.mesh(*dot.sizes), in_specs=specs, out_specs=P(), check_vma=False)


def turning(local, dot, dim):
    """With operands whose chunks are rotated first."""
    turn = functools.partial(rotated, axis_name=dot.axes, order=dot.order)
    put = lambda x, term: turn(x, term.index(dim)) if dim in term else x  # noqa: E731
    return lambda lhs, rhs: local(put(lhs, dot.lhs), put(rhs, dot.rhs), in_turn=True)


def scattered(dot, dim, by_hand):
    specs = (spec(dot.lhs, k=dot.axes), spec(dot.rhs, k=dot.axes), spec("bmn", **{dim: dot.axes}))
    if not by_hand:
        return fused(Site("reduce_scatter", dot.axes, *specs, order=dot.order), dot.sizes, dot.numbers, dot.dtype)
    where = {"order": dot.order, "axis_name": dot.axes, "scatter_dim": "bmn".index(dim)}
    local = functools.partial(matmul_reduce_scatter, dimension_numbers=dot.numbers, **where)
    local = turning(local, dot, dim) if dot.in_turn else local
    return jax.shard_map(local, mesh=programs.mesh(*dot.sizes), in_specs=specs[:2], out_specs=specs[2])


GATHERED = [(0, "b"), (0, "m"), (0, "k"), (1, "b"), (1, "k"), (1, "n")]


@pytest.mark.parametrize("operand, dim", GATHERED)
@settings(max_examples=2)
@given(dots(), st.booleans())
def test_all_gather(operand, dim, dot, by_hand):
    same(gathered(dot, operand, dim, by_hand), f"{dot.lhs},{dot.rhs}->bmn", dot.dtype)


@pytest.mark.parametrize("dim", ["b", "m", "n"])
@settings(max_examples=2)
@given(dots(), st.booleans())
def test_reduce_scatter(dim, dot, by_hand):
    same(scattered(dot, dim, by_hand), f"{dot.lhs},{dot.rhs}->bmn", dot.dtype)


@pytest.mark.parametrize("operand, dim", GATHERED)
def test_all_gather_at_every_size(operand, dim):
    for i, dot in enumerate(every_dot(GATHERED.index((operand, dim)))):
        same(gathered(dot, operand, dim, by_hand=bool(i % 3)), f"{dot.lhs},{dot.rhs}->bmn", dot.dtype)


@pytest.mark.parametrize("dim", ["b", "m", "n"])
def test_reduce_scatter_at_every_size(dim):
    for i, dot in enumerate(every_dot(ord(dim))):
        same(scattered(dot, dim, by_hand=bool(i % 3)), f"{dot.lhs},{dot.rhs}->bmn", dot.dtype)


BMK_BKN = (((2,), (1,)), ((0,), (0,)))


@pytest.mark.parametrize(
    "site",
    [
        # Megatron with sequence parallelism: gather the sequence, the weight stays split.
        Site("all_gather", "y", P("x", "y"), P("x", None, "y"), P("x", None, "y")),
        Site("reduce_scatter", "y", P("x", None, "y"), P("x", "y"), P("x", "y")),
        # Two-dimensional weight-stationary: gather over y, what x leaves open is summed or scattered.
        Site("all_gather", "y", P(None, None, ("x", "y")), P(None, "x", "y"), P(None, None, "y")),
        Site("all_gather", "y", P(None, None, ("x", "y")), P(None, "x", "y"), P(None, None, ("y", "x"))),
        Site("all_gather", "y", P(None, None, ("x", "y")), P(None, "x", "y"), P(None, "x", "y")),
        Site("reduce_scatter", "y", P(None, None, ("x", "y")), P(None, ("x", "y")), P(None, "y", "x")),
        # One ring over two axes.
        Site("all_gather", ("x", "y"), P(None, ("x", "y")), P(), P()),
        Site("reduce_scatter", ("x", "y"), P(None, None, ("x", "y")), P(None, ("x", "y")), P(None, ("x", "y"))),
    ],
    ids=str,
)
def test_two_axes(site):
    same(fused(site, (2, 4), BMK_BKN, jnp.float32), "bmk,bkn->bmn", jnp.float32)


@pytest.mark.parametrize("ring", [all_gather_matmul, matmul_reduce_scatter])
def test_an_order_names_every_device_once(ring):
    where = {"gather_dim" if ring is all_gather_matmul else "scatter_dim": 0}
    local = functools.partial(ring, dimension_numbers=MATMUL, axis_name="x", order=(0, 2, 2, 1), **where)
    mapped = jax.shard_map(local, mesh=programs.mesh(4), in_specs=(P("x"), P()), out_specs=P("x"))
    with pytest.raises(ValueError, match=r"order \(0, 2, 2, 1\) does not name each of the 4 devices of axis 'x' once"):
        jax.eval_shape(mapped, jnp.ones((16, 4)), jnp.ones((4, 4)))


def test_chunks_in_turn_are_sliced_at_known_offsets():
    """Slices of the weight at offsets that depend on the device, and none of them."""
    where = {"dimension_numbers": MATMUL, "axis_name": "x", "scatter_dim": 1}
    mapped = {"mesh": programs.mesh(4), "in_specs": (P(None, "x"), P("x")), "out_specs": P(None, "x")}

    def offsets(in_turn):
        local = functools.partial(matmul_reduce_scatter, in_turn=in_turn, **where)
        lowered = jax.jit(jax.shard_map(local, **mapped)).lower(jnp.ones((8, 8)), jnp.ones((8, 8)))
        return (lowered.compile().as_text() or "").count("dynamic-slice(")

    assert (offsets(False) > 0, offsets(True)) == (True, 0)


def test_what_cannot_be_cut_is_not_rotated():
    turn = functools.partial(rotated, dim=0, axis_name="x")
    with pytest.raises(ValueError, match="cannot cut dim 0 of size 6 for 4 devices of axis 'x'"):
        jax.eval_shape(jax.shard_map(turn, mesh=programs.mesh(4), in_specs=P(), out_specs=P("x")), jnp.ones((6, 8)))


@pytest.mark.parametrize("gather_dim", [0, 1])
@pytest.mark.parametrize("operand", [0, 1])
@pytest.mark.parametrize("sizes", [(1,), (2,), (8,), (2, 4)], ids=str)
def test_several_share_a_gather(operand, gather_dim, sizes):
    axes, x = tuple("xy"[: len(sizes)]), whole_numbers(0, (8, 8), jnp.bfloat16)
    others = [whole_numbers(i, (8, 8), jnp.bfloat16) for i in (1, 2)]
    split = P(*(None,) * gather_dim, axes)
    where = {"axis_name": axes, "gather_dim": gather_dim, "operand": operand}
    local = lambda x, *others: all_gather_matmuls(x, others, MATMUL, **where)  # noqa: E731
    mapped = {"mesh": programs.mesh(*sizes), "in_specs": (split, P(), P()), "out_specs": P(), "check_vma": False}

    def both(fun):
        def loss(*args):
            first, second = out = fun(*args)
            return jnp.sum(first - 2 * second, dtype=jnp.float32), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(x, *others)

    plain = lambda x, *others: [x @ y if operand == 0 else y @ x for y in others]  # noqa: E731
    for ours, theirs in zip(*map(jax.tree.leaves, map(both, (jax.shard_map(local, **mapped), plain)))):
        np.testing.assert_array_equal(ours, theirs)


def test_checked_variance_by_hand():
    local = functools.partial(all_gather_matmul, dimension_numbers=MATMUL, axis_name="x", gather_dim=0)
    run = jax.shard_map(local, mesh=programs.mesh(4), in_specs=(P("x"), P(None, "x")), out_specs=P(None, "x"))
    a, b = (whole_numbers(i, (8, 8), jnp.float32) for i in range(2))
    np.testing.assert_array_equal(jax.jit(run)(a, b), a @ b)


def test_narrow_floats_are_summed_wide():
    a, b = (jnp.asarray(np.random.default_rng(i).normal(size=(8, 4096)), jnp.bfloat16) for i in range(2))
    numbers = (((1,), (1,)), ((), ()))
    closed = jax.make_jaxpr(lambda a, b: jax.lax.dot_general(a, b, numbers))(a, b)
    new = fuse(closed, {(0,): Site("all_gather", "x", P(None, "x"), P(), P())}, programs.mesh(8))
    exact = np.asarray(a, np.float64) @ np.asarray(b, np.float64).T
    out = np.asarray(jax.jit(jaxpr.as_fun(new))(a, b)[0], np.float64)
    assert np.max(np.abs(out - exact) / np.abs(exact).clip(1)) < 2**-8


def test_the_dtype_asked_for_is_kept():
    a = whole_numbers(0, (8, 8), jnp.bfloat16)
    closed = jax.make_jaxpr(lambda a: jax.lax.dot_general(a, a, MATMUL, preferred_element_type=jnp.float32))(a)
    sites: dict[Path, Site] = {(0,): Site("reduce_scatter", "x", P(None, "x"), P("x"), P("x"))}
    out = jax.jit(jaxpr.as_fun(fuse(closed, sites, programs.mesh(8))))(a)[0]
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, a.astype(jnp.float32) @ a.astype(jnp.float32))


@pytest.mark.parametrize(
    "site",
    [
        Site("all_gather", "x", P("x"), P(None, "x"), P(None, "x")),
        Site("reduce_scatter", "x", P(None, "x"), P("x"), P("x")),
    ],
)
def test_compiled_as_a_ring(site):
    a = whole_numbers(0, (64, 64), jnp.float32)
    closed = jax.make_jaxpr(jnp.matmul)(a, a)
    ((path, _),) = [(p, e) for p, e in jaxpr.walk(closed) if jaxpr.primitive_name(e) == "dot_general"]
    mesh = programs.mesh(8)
    args = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=jax.NamedSharding(mesh, s)) for s in (site.lhs, site.rhs)]
    compiled = jax.jit(jaxpr.as_fun(fuse(closed, {path: site}, mesh))).lower(*args).compile()
    hlo = compiled.as_text() or ""
    assert hlo.count(" collective-permute(") + hlo.count(" collective-permute-start(") == 7
    assert not any(f" {name}(" in hlo for name in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all"))
    assert compiled.output_shardings[0].is_equivalent_to(jax.NamedSharding(mesh, site.out), 2)


def test_inside_of_a_scan():
    x = whole_numbers(0, (8, 8), jnp.float32) / 4
    closed = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, w: (c @ w, None), x, jnp.stack([x, x])))(x)
    ((path, _),) = [(p, e) for p, e in jaxpr.walk(closed) if jaxpr.primitive_name(e) == "dot_general"]
    new = fuse(closed, {path: Site("all_gather", "x", P("x"), P(), P())}, programs.mesh(8))
    check_jaxpr(new.jaxpr)
    np.testing.assert_array_equal(jax.jit(jaxpr.as_fun(new))(x)[0], x @ x @ x)


@pytest.mark.parametrize(
    "site, words",
    [
        (Site("all_gather", "x", P(), P(), P()), "0 dims of the operands"),
        (Site("all_gather", "x", P("x"), P(None, "x"), P()), "2 dims of the operands"),
        (Site("all_gather", "x", P(("x", "y")), P(), P("y")), "0 dims of the operands"),
        (Site("all_gather", "x", P("x"), P(None, "y"), P()), "besides the ring"),
        (Site("reduce_scatter", "x", P(), P(), P("x")), "both operands split"),
        (Site("reduce_scatter", "x", P(None, "x"), P("x"), P()), "one dim of the result"),
        (Site("reduce_scatter", "x", P(None, None, "x"), P(), P()), "more dims than the array's 2"),
    ],
    ids=str,
)
def test_sites_that_are_no_ring(site, words):
    a = jnp.ones((8, 8))
    closed = jax.make_jaxpr(lambda a: a @ a)(a)
    with pytest.raises(ValueError, match=rf"at 0, dot_general from .*test_collective_matmul.*{words}"):
        fuse(closed, {(0,): site}, programs.mesh(4, 2))


def test_sites_name_matmuls():
    closed = jax.make_jaxpr(jnp.sin)(jnp.ones(8))
    with pytest.raises(ValueError, match="no dot_general at 0"):
        fuse(closed, {(0,): Site("all_gather", "x", P("x"), P(), P())}, programs.mesh(8))


def test_the_axis_divides_the_scattered_dim():
    local = functools.partial(matmul_reduce_scatter, dimension_numbers=MATMUL, axis_name="x", scatter_dim=0)
    run = jax.shard_map(local, mesh=programs.mesh(8), in_specs=(P(None, "x"), P("x")), out_specs=P("x"))
    with pytest.raises(ValueError, match="dim 0 of size 7 over 8 devices"):
        jax.eval_shape(run, jnp.ones((7, 8)), jnp.ones((8, 8)))
