"""What was compiled against what was planned, on simulated devices."""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from planned import MESH, SLOW_LINKS, V, W, X, eager, mlp, residual, residual_specs
from typer.testing import CliRunner

import planner
from planner.audit.match import matched
from planner.audit.record import Move
from planner.audit.show import show
from planner.audit.topology import has_libtpu, topology_mesh
from planner.cli import app
from planner.errors import AuditError

CPU = "cpu"
needs_libtpu = pytest.mark.skipif(not has_libtpu(), reason="needs libtpu: pip install 'meshplan[tpu-aot]'")


def move(kind="all_gather", axes=("x",), nbytes=100.0, trips=1.0, source="a.py:1", **more):
    return Move(kind=kind, axes=axes, nbytes=nbytes, trips=trips, seconds=1.0, source=source, **more)


@dataclass
class Case:
    planned: list[Move]
    compiled: list[Move]


SAME = {
    "the same": Case([move()], [move()]),
    "on another line": Case([move()], [move(source="b.py:2")]),
    "one axis after the other": Case(
        [move(axes=("x", "y"), nbytes=100)], [move(axes=("y",), nbytes=25), move(axes=("x",), nbytes=100)]
    ),
    "in its two halves": Case([move("all_reduce")], [move("reduce_scatter"), move("all_gather")]),
    "rounded": Case([move()], [move(nbytes=50)]),
    "several in one": Case([move(), move(nbytes=50)], [move(nbytes=150)]),
}


@pytest.mark.parametrize("case", SAME.values(), ids=SAME)
def test_what_is_as_planned(case):
    found = matched(case.planned, case.compiled)
    assert not found.surprises
    assert not found.missing
    assert {p.nbytes for p, _ in found.pairs} == {p.nbytes for p in case.planned}


OTHER = {
    "another axis": Case([move()], [move(axes=("y",))]),
    "more often": Case([move()], [move(trips=2)]),
    "more bytes": Case([move()], [move(nbytes=200)]),
    "another kind": Case([move()], [move("all_to_all")]),
}


@pytest.mark.parametrize("case", OTHER.values(), ids=OTHER)
def test_what_is_not_as_planned(case):
    found = matched(case.planned, case.compiled)
    assert [s.move for s in found.surprises] == case.compiled
    assert list(found.missing) == case.planned
    assert not found.pairs


@pytest.mark.parametrize("kind", ["reduce_scatter", "all_gather"])
def test_an_all_reduce_that_stands_for_something_cheaper(kind):
    found = matched([move(kind)], [move("all_reduce")])
    assert [(s.instead_of, s.cause) for s in found.surprises] == [(kind, f"all_reduce in place of {kind}")]
    assert not found.missing


def test_the_line_decides_between_equals():
    here, there = move(source="a.py:1"), move(source="b.py:2")
    found = matched([there, here], [here, there])
    assert all(p.source == c[0].source for p, c in found.pairs)


RING = move(nbytes=400.0, chunks=4)
CHUNK = move("permute", nbytes=100.0)


def test_a_ring_is_the_permutes_of_its_chunks():
    found = matched([RING], [CHUNK, CHUNK, CHUNK])
    assert found.pairs == ((RING, (CHUNK, CHUNK, CHUNK)),)
    assert not found.surprises and not found.missing


def test_permutes_beyond_those_of_a_ring_are_surprises():
    found = matched([RING], [CHUNK, move("permute", nbytes=100.0, source="b.py:2"), CHUNK, CHUNK])
    assert [s.move.source for s in found.surprises] == ["b.py:2"]


def test_gathers_of_one_value_share_their_chunks():
    """Sums do not: each ring that scatters sends its own."""
    again = move(nbytes=400.0, chunks=4, source="b.py:2")
    found = matched([RING, again], [CHUNK, CHUNK, CHUNK])
    assert found.pairs == ((RING, (CHUNK,) * 3), (again, (CHUNK,) * 3))
    assert not found.surprises and not found.missing
    larger = move(nbytes=800.0, chunks=4)
    assert matched([RING, larger], [CHUNK, CHUNK, CHUNK]).missing == (larger,)
    sums = [move("reduce_scatter", nbytes=400.0, chunks=4, source=line) for line in ("a.py:1", "b.py:2")]
    assert matched(sums, [CHUNK, CHUNK, CHUNK]).missing == (sums[1],)


def test_a_ring_without_all_of_its_permutes_is_absent():
    found = matched([RING], [CHUNK, CHUNK, move("permute", ("y",))])
    assert found.missing == (RING,) and len(found.surprises) == 3
    assert matched([RING], [move(nbytes=400.0)]).missing == (RING,)


def residual_of(size, mesh):
    """A residual MLP whose plan has rings: the function under its plan, and its arguments."""
    w = {name: jax.ShapeDtypeStruct((size, size), jnp.float32) for name in ("up", "down")}
    x = jax.ShapeDtypeStruct((size, size), jnp.float32)
    out = PartitionSpec(None, "x")
    ins = residual_specs(mesh), out
    return planner.autoshard(residual, mesh=mesh, machine=SLOW_LINKS, in_shardings=ins, out_shardings=out), (w, x)


@pytest.mark.parametrize(
    ("mesh", "size", "machine"),
    [
        pytest.param(lambda: MESH, 64, CPU, id="cpu"),
        pytest.param(lambda: topology_mesh("v5e:2x4"), 1024, "tpu-v5e", marks=needs_libtpu, id="tpu"),
    ],
)
def test_rings_are_compiled_as_planned(mesh, size, machine):
    fun, args = residual_of(size, mesh := mesh())
    plan = fun.plan(*args)
    found = planner.audit(plan, fun.lower(*args).compile(), mesh, machine)
    rings = [p for p in found.pairs if p.planned.chunks]
    assert len(rings) == len(plan.rings()) > 0
    assert all(len(p.compiled) == p.planned.chunks - 1 for p in rings)
    assert found.ok and not found.missing
    assert "ring " in show(found, 140)


@needs_libtpu
@pytest.mark.parametrize("columns", [320, 384])
def test_a_small_scatter_is_compiled_as_planned(columns):
    """Each of four devices keeps 16 rows of columns: of 320 these are five tiles, filled up to six."""
    mesh = topology_mesh("v5e:2x4")
    args = jax.ShapeDtypeStruct((64, 4096), jnp.bfloat16), jax.ShapeDtypeStruct((4096, columns), jnp.bfloat16)
    ins, out = (PartitionSpec(None, "y"), PartitionSpec("y")), PartitionSpec("y")
    fun = planner.autoshard(jnp.matmul, mesh=mesh, in_shardings=ins, out_shardings=out)
    found = planner.audit(plan := fun.plan(*args), fun.lower(*args).compile(), mesh)
    assert [(c.kind, c.axes, c.nbytes) for c in plan.collectives] == [("reduce_scatter", ("y",), 64 * 384 * 2)]
    assert not found.surprises and not found.missing


def compiled_with(plan):
    return eager(mlp, mesh=MESH, plan=plan).lower(X, W, V).compile()


def test_a_plan_and_what_it_is_compiled_to():
    plan = eager(mlp, mesh=MESH).plan(X, W, V)
    found = planner.audit(plan, compiled_with(plan), MESH, CPU)
    assert found.ok and not found.surprises and not found.missing
    assert len(found.pairs) == len(plan.collectives) > 0
    assert found.predicted_memory and found.compiled_memory
    assert found.compiled_memory.arguments == pytest.approx(found.predicted_memory.arguments)
    assert any("estimates no computation" in note for note in found.notes)


def test_a_wrong_constraint_is_named():
    """Beside the plan the program has a constraint that gathers a weight: the audit leads to its line."""
    plan = eager(mlp, mesh=MESH).plan(X, W, V)

    def wrong(x, w, v):
        whole = jax.lax.with_sharding_constraint(w + 0.0, NamedSharding(MESH, PartitionSpec()))
        return jnp.tanh(x @ whole) @ v

    first = wrong.__code__.co_firstlineno
    lines = [f"test_audit.py:{first + i} (wrong)" for i in (1, 2)]  # of the constraint or, in JAX 0.11, of its reader
    shardings = [NamedSharding(MESH, PartitionSpec(*spec)) for spec in (("x",), (None, "y"), ("y",))]
    found = planner.audit(plan, jax.jit(wrong, in_shardings=shardings).lower(X, W, V).compile(), MESH, CPU)
    assert not found.ok
    gathers = [s for s in found.surprises if s.move.kind == "all_gather" and s.move.nbytes == W.nbytes]
    assert gathers, found.surprises
    assert any(line in s.move.source for s in gathers for line in lines)
    assert "Compiled but not planned" in show(found, 140) and "test_audit.py" in show(found, 140)


def test_without_a_plan_everything_is_listed_and_nothing_surprises():
    shardings = [NamedSharding(MESH, PartitionSpec(*spec)) for spec in ((None, "y"), ("y",), ())]
    found = planner.audit(None, jax.jit(mlp, in_shardings=shardings).lower(X, W, V).compile(), MESH, CPU)
    assert [m.kind for m in found.moves] == ["all_reduce"]
    assert found.ok and not found.surprises and found.predicted_seconds is None


def test_a_plan_for_another_mesh_is_refused():
    plan = eager(mlp, mesh=MESH).plan(X, W, V)
    with pytest.raises(AuditError, match="the plan is for mesh"):
        planner.audit(plan, compiled_with(plan), jax.make_mesh((8,), ("x",)), CPU)


def test_the_account_as_json():
    plan = eager(mlp, mesh=MESH).plan(X, W, V)
    data = json.loads(planner.audit(plan, compiled_with(plan), MESH, CPU).to_json())
    assert data["ok"] is True and data["surprising"] == 0.0 and data["mesh"] == {"x": 2, "y": 4}


WORKLOAD = """
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
def fun(x, w):
    return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), P())
def layer():
    return fun, (jax.ShapeDtypeStruct((64, 128), jnp.float32), jax.ShapeDtypeStruct((128, 256), jnp.float32))
def own():
    w = jax.ShapeDtypeStruct((128, 256), jnp.float32, sharding=jax.NamedSharding(jax.sharding.get_mesh(), P("y")))
    return fun, (jax.ShapeDtypeStruct((64, 128), jnp.float32), w)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("audited.py").write_text(WORKLOAD)


def command(*words: str):
    return CliRunner().invoke(app, ["audit", *words])


def test_the_command_on_a_plan_and_on_ones_own_shardings(folder):
    import audited  # type: ignore[import-not-found]

    fun, args = audited.layer()
    planner.make_plan(fun, *args, mesh=MESH, machine="cpu").save("p.json")
    done = command("p.json", "--workload", "audited:layer")
    assert done.exit_code == 0, done.output
    own = command("audited:own", "--mesh", "x=2,y=4", "--json")
    assert own.exit_code == 0, own.output
    assert [m["kind"] for m in json.loads(own.stdout)["moves"]] == ["all_reduce"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("audited:layer",), "--mesh"),
        (("audited:layer", "--topology", "v9:2x2"), "v4:4x4x4"),
        (("audited:layer", "--mesh", "x=2,y=4", "--donate", "nobody"), "no such argument"),
    ],
)
def test_what_the_command_refuses(folder, words, said):
    done = command(*words)
    assert done.exit_code == 2
    assert said in done.stderr
