"""Which equations of a plan are commanded, and what they become."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from planned import MESH, V, W, X, close, mlp
from programs import mesh
from test_topology import needs_libtpu

import planner
from passes import in_parts, jaxpr
from passes.constrain import constrain
from passes.region import Local, Region
from passes.way import Shard
from planner import regions, testing
from planner.audit.topology import topology_mesh
from planner.make import make_plan
from planner.realise import Realised
from planner.regions import kept, local_of, regions_of
from planner.trace import trace

SQUARE = np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32) / 4
SPLIT = ((PartitionSpec(None, "y"), PartitionSpec("y"), None), PartitionSpec())


def planned(fun, *args, specs=(None, None), on=MESH, machine=testing.EAGER):
    plan = make_plan(fun, *args, mesh=on, machine=machine, in_shardings=specs[0], out_shardings=specs[1], known=False)
    return plan, trace(fun, args, {}, on)


def mapped(closed):
    return [eqn for _, eqn in jaxpr.walk(closed) if jaxpr.primitive_name(eqn) == "shard_map"]


def test_equations_with_collectives_between_them_are_one_region():
    plan, program = planned(mlp, X, W, V, specs=SPLIT)
    (region,) = regions_of(program, plan, MESH).values()
    assert len(region.equations) == len(program.closed.jaxpr.eqns)
    assert [shard.spec for shard in region.inputs][:2] == [PartitionSpec((), ("y",)), PartitionSpec(("y",), ())]
    assert any(shard.open for local in region.equations for way in local.results for shard in way)


@pytest.mark.parametrize("read", ["as it is", "by the next", "twice"])
def test_a_large_matmul_scatters_its_last_dim_itself(read, monkeypatch):
    """Its sum is in no layout but the scattered one; where something else reads the sum too, it stays."""
    monkeypatch.setattr(in_parts, "LARGE", 0)
    on = mesh(8, names=("y",))
    x, w = np.ones((16, 1024), np.float32), np.full((1024, 1024), 1e-3, np.float32)

    def fun(x, w):
        a = x @ w
        return {"as it is": a, "by the next": jnp.tanh(a), "twice": (jnp.tanh(a), jnp.sum(a, 0))}[read]

    columns = PartitionSpec(None, "y")
    wanted = (columns, PartitionSpec("y")) if read == "twice" else columns
    plan, program = planned(fun, x, w, specs=((columns, PartitionSpec("y")), wanted), on=on)
    assert [c.kind for c in plan.collectives] == ["reduce_scatter"]
    (region,) = regions_of(program, plan, on).values()
    assert region.equations[0].instead is not None
    assert region.equations[0].results[0][0] == Shard(((), ("y",)))
    for got, expected in zip(jax.tree.leaves(Realised(plan, program, on)(x, w)), jax.tree.leaves(fun(x, w))):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_a_smaller_one_too_but_for_a_weight_that_a_loop_slices(monkeypatch):
    """On a chip with slow copies: the slice would be copied to be cut."""
    monkeypatch.setattr(in_parts, "SMALL", 0)
    monkeypatch.setattr(regions, "least", lambda _, copied: in_parts.least("TPU v4", copied))
    on, columns, rows = mesh(8, names=("y",)), PartitionSpec(None, "y"), PartitionSpec("y")
    x, w = np.ones((16, 1024), np.float32), np.full((1024, 1024), 1e-3, np.float32)
    plan, program = planned(jnp.matmul, x, w, specs=((columns, rows), columns), on=on)
    (region,) = regions_of(program, plan, on).values()
    assert region.equations[0].instead is not None

    def fun(x, ws):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, ws)[0]

    plan, program = planned(fun, x, np.stack([w] * 3), specs=((columns, PartitionSpec(None, "y")), columns), on=on)
    matmuls = [e for r in regions_of(program, plan, on).values() for e in r.equations]
    assert [c.kind for c in plan.collectives] == ["reduce_scatter"]
    assert matmuls and all(local.instead is None for local in matmuls)


def test_what_needs_no_collective_is_only_annotated():
    rows = PartitionSpec(("x", "y"))
    plan, program = planned(lambda x: jnp.tanh(x) * 2, X, specs=(rows, rows))
    assert not plan.collectives
    assert not regions_of(program, plan, MESH)


def test_the_body_of_a_loop_has_regions_of_its_own():
    def fun(x, ws):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]

    ws = np.stack([np.eye(16, dtype=np.float32)] * 3)
    plan, program = planned(fun, X, ws, specs=((None, PartitionSpec(None, "y")), None))
    assert any(len(path) == 3 for path in regions_of(program, plan, MESH))
    close(Realised(plan, program, MESH)(X, ws), fun(X, ws))


def test_a_value_is_moved_for_a_loop_where_it_is_made():
    """A loop could only ask for its carry, and a compiler may then replicate it on the way."""

    def fun(table, tokens):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x), table[tokens])

    table, tokens = np.eye(4096, 16, dtype=np.float32), np.arange(32) % 7
    columns, both = PartitionSpec(None, ("x", "y")), PartitionSpec("x", "y")
    quick = replace(testing.EAGER, chip=replace(testing.EAGER.chip, hbm_bandwidth=1e9))
    plan, program = planned(fun, table, tokens, specs=((columns, None), both), machine=quick)
    (moved,) = [c for c in plan.collectives if c.kind == "all_to_all"]
    lookup = next(path for path, e in jaxpr.walk(program.closed) if jaxpr.primitive_name(e) == "gather")
    regions = regions_of(program, plan, MESH)
    assert moved.axes == ("x",) and any(
        path <= lookup and Shard((("x",), ("y",))) in r.outputs for path, r in regions.items()
    )
    made = Realised(plan, program, MESH)
    text = made.jitted.lower(table, tokens).compile().as_text()
    assert "all-to-all" in text and not re.search(r"f32\S* all-gather", text)
    close(made(table, tokens), fun(table, tokens))


def test_what_needs_the_position_of_the_device_ends_a_run():
    def fun(x, w):
        return (x @ w) + jnp.arange(32.0)

    spec = PartitionSpec(None, "y")
    plan, program = planned(fun, X, W, specs=((spec, PartitionSpec("y")), spec))
    iota = next(i for i, e in enumerate(program.closed.jaxpr.eqns) if jaxpr.primitive_name(e) == "iota")
    split = next(op for op in plan.operations if op.primitive == "iota").splits
    covered = {
        i
        for path, region in regions_of(program, plan, MESH).items()
        for i in range(path[0], path[0] + len(region.equations))  # type: ignore[operator]
    }
    assert (iota in covered) == (not any(split))
    close(Realised(plan, program, MESH)(X, W), fun(X, W))


def test_a_planned_function_inside_of_another():
    """The inner one's closed-over matrix is written into the outer program, whole."""
    inner = planner.autoshard(lambda x: jnp.tanh(x @ SQUARE), mesh=MESH, machine=testing.EAGER)
    testing.assert_equivalent(lambda x: inner(x) @ SQUARE + inner(x * 2), SQUARE, mesh=MESH, machine=testing.EAGER)


@pytest.mark.parametrize("commanded", [True, False])
def test_a_plan_can_also_be_asked_for(commanded):
    plan, program = planned(mlp, X, W, V, specs=SPLIT)
    made = Realised(plan, program, MESH, commanded=commanded)
    close(made(X, W, V))
    assert bool(mapped(made.jitted.trace(X, W, V).jaxpr)) == commanded


def test_equations_inside_keep_their_lines_and_moves_carry_our_name():
    plan, program = planned(mlp, X, W, V, specs=SPLIT)
    text = Realised(plan, program, MESH).jitted.lower(X, W, V).as_text(debug_info=True)
    assert f'planned.py":{mlp.__code__.co_firstlineno + 1}' in text
    assert "meshplan/" in text


def test_a_region_written_by_hand():
    on = mesh(2, 4)
    closed = jax.make_jaxpr(lambda x, w: jnp.tanh(x @ w))(X, W)
    whole, part = Shard(((), ())), Shard(((), ()), frozenset("y"))
    dot = Local((Shard(((), ("y",))), Shard((("y",), ()))), ((part, Shard((("y",), ()))),), closed.eqns[0].params)
    tanh = Local((Shard((("y",), ())),), ((Shard((("y",), ())),),), closed.eqns[1].params)
    region = Region((dot, tanh), (Shard(((), ("y",))), Shard((("y",), ()))), (whole,))
    changed = constrain(closed, {}, on, regions={(0,): region})
    names = [jaxpr.primitive_name(eqn) for _, eqn in jaxpr.walk(changed)]
    laid = ["platform_index", "cond", "layout_constraint"]
    assert names == ["shard_map", "dot_general", *laid, "reduce_scatter", "tanh", "all_gather"]
    close(jax.jit(jaxpr.as_fun(changed))(X, W)[0], np.tanh(X @ W))


@pytest.mark.parametrize("shared, gathers", [(False, 2), (True, 1)])
def test_a_copy_that_several_read_is_gathered_once(shared, gathers):
    """The first reader wants some rows of it, which it would gather by itself."""
    on = mesh(2, 4)
    closed = jax.make_jaxpr(lambda x: (jnp.tanh(x), jnp.sin(x)))(X)
    whole, rows, columns = Shard(((), ())), Shard((("y",), ())), Shard(((), ("x",)))
    tanh = Local((rows,), ((rows,),), closed.eqns[0].params, shared=(whole,) if shared else ())
    sin = Local((whole,), ((whole,),), closed.eqns[1].params)
    changed = constrain(closed, {}, on, regions={(0,): Region((tanh, sin), (columns,), (rows, whole))})
    assert str(changed.jaxpr).count("all_gather[") == gathers
    for result, plain in zip(jax.jit(jaxpr.as_fun(changed))(X), (np.tanh(X), np.sin(X)), strict=True):
        close(result, plain)


def test_state_that_is_kept_computes_the_same():
    """As if for a TPU, where a body's update lies as the argument does: [8, 16, 4] has 16 minor-most."""
    cache, row = np.arange(512.0, dtype=np.float32).reshape(8, 16, 4), np.ones((8, 1, 4), np.float32)

    def write(cache, row, i):
        return jax.lax.dynamic_update_slice(cache, row, (0, i, 0))

    plan, program = planned(write, cache, row, 3, specs=((PartitionSpec("y"), PartitionSpec("y"), None), None))
    (update,) = [eqn for eqn in program.closed.jaxpr.eqns if jaxpr.primitive_name(eqn) == "dynamic_update_slice"]
    at = program.closed.jaxpr.eqns.index(update)
    alone = local_of(update, plan.operations[at], plan.mesh)
    assert alone is not None
    local = kept(update, alone, plan.mesh)
    closed = jax.make_jaxpr(lambda *xs: local.on(update, xs))(cache[:2], row[:2], 0, 3, 0)
    (laid,) = [eqn for _, eqn in jaxpr.walk(closed) if jaxpr.primitive_name(eqn) == "layout_constraint"]
    assert laid.params["layout"].major_to_minor == (0, 2, 1)
    np.testing.assert_array_equal(jaxpr.as_fun(closed)(cache[:2], row[:2], 0, 3, 0)[0], write(cache[:2], row[:2], 3))


@needs_libtpu
def test_the_tpu_compiler_never_copies_state():
    """Layers whose cache [3, 64, 512, 8, 96] it would rather have otherwise inside of the loop."""
    on = topology_mesh("v5e:2x2")
    stack, x = (jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((3, 64, 512, 8, 96), (64, 8, 96)))

    def layer(x, i, c):
        c = jax.lax.dynamic_update_slice(c, x[:, None], (0, i, 0, 0))
        return jnp.einsum("bth,bthd->bhd", jnp.einsum("bhd,bthd->bth", x, c), c), c

    def fun(x, cache, i):
        return jax.lax.scan(lambda x, c: layer(x, i, c), x, cache)

    rows = PartitionSpec(None, ("x", "y"))
    made = planner.autoshard(fun, mesh=on, in_shardings=(None, rows, None), donate_argnums=1)
    compiled = made.lower(x, stack, jax.ShapeDtypeStruct((), jnp.int32)).compile()
    assert "bf16[3,16,512,8,96]" in compiled.as_text()
    assert not re.findall(r"bf16\[3,16,512,8,96\]\S* copy\(", compiled.as_text())


@needs_libtpu
def test_the_tpu_compiler_follows_the_plan():
    on = topology_mesh("v4:2x2x2")
    shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((512, 4096), (4096, 16384), (16384, 4096))]
    columns = PartitionSpec(None, ("x", "y", "z"))
    fun = planner.autoshard(mlp, mesh=on, in_shardings=(None, columns, None), out_shardings=PartitionSpec())
    found = planner.audit(fun.plan(*shapes), fun.lower(*shapes).compile(), on)
    assert found.pairs
    assert found.surprising < 0.01 and found.absent < 0.01
    assert found.estimated and found.predicted_seconds == pytest.approx(found.seconds, rel=0.5)


@needs_libtpu
def test_rings_on_rows_that_do_not_close_are_asynchronous():
    """On v5e a permute of more than two hops is not: a row is walked by every other chip, and back."""
    on = topology_mesh("v5e:4x8")
    shapes = [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in ((32768, 28672), (28672, 8192))]
    lhs, rhs, out = PartitionSpec(None, ("y", "x")), PartitionSpec("y", "x"), PartitionSpec(None, ("x", "y"))
    fun = planner.autoshard(jnp.matmul, mesh=on, in_shardings=(lhs, rhs), out_shardings=out)
    (ring,) = [op.ring for op in fun.plan(*shapes).operations if op.ring]
    assert ring.order == {"x": (0, 2, 3, 1), "y": (0, 2, 4, 6, 7, 5, 3, 1)}["".join(ring.axes)]
    text = fun.lower(*shapes).compile().as_text()
    assert "collective-permute-start(" in text and "collective-permute(" not in text
