"""Time along a schedule: computation, and communication hidden beside it or exposed."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from programs import mesh as cpu_mesh
from recorded import CHAIN, TPU

from planner.audit import hlo
from planner.audit.collective import collective_of
from planner.audit.schedule import Timer, timer_of
from planner.audit.wires import Wires
from planner.sharding import MeshShape

MESH = MeshShape(("x", "y"), (2, 4))
MICRO = 1e-6


def timer(seconds: float) -> Timer:
    """A microsecond per 1050 cycles, no time for copies, and the same time for every collective."""
    prices: Any = SimpleNamespace(collective=lambda kind, nbytes, mask: np.asarray(seconds))
    return Timer(MESH, 1.05e9, float("inf"), prices)


def test_collectives_are_told_in_all_their_forms():
    module = hlo.read(TPU)
    body = module.computations["body"]
    found = [m for i in body.instructions if (m := collective_of(module, body, i, MESH))]
    assert [(m.kind, m.span.axes, m.nbytes) for m in found] == [
        ("all_gather", ("x",), 2 * 16 * 16),
        ("reduce_scatter", ("y",), 2 * 8 * 16),
        ("all_reduce", ("y",), 2 * 8 * 16),
    ]
    assert [m.starts for m in found] == [True, False, False]


def test_a_collective_without_a_line_has_that_of_what_feeds_it():
    module = hlo.read(TPU)
    body = module.computations["body"]
    move = collective_of(module, body, body.by_name["sum"], MESH)
    assert move is not None
    assert move.source.endswith("model.py:9 (layer)")


@pytest.mark.parametrize("seconds", [0.25 * MICRO, 3 * MICRO])
def test_what_is_started_runs_beside_what_stands_between(seconds):
    found = timer(seconds).schedule(TPU)
    beside = min(seconds, MICRO)
    assert found.compute == pytest.approx(5 * MICRO)
    assert found.hidden == pytest.approx(5 * beside)
    assert found.exposed == pytest.approx(5 * (3 * seconds - beside))
    assert found.seconds == found.compute + found.exposed
    assert found.estimated
    assert not found.unknown


def test_fusions_that_carry_one_collective_on_are_one_collective():
    found = timer(10 * MICRO).schedule(CHAIN)
    assert found.compute == pytest.approx(3 * MICRO)
    assert found.exposed == pytest.approx(7 * MICRO)
    assert [s.collective.nbytes for s in found.spans if s.collective] == [2 * 8 * 16 * 8]


def test_loops_that_nobody_can_count_are_named():
    text = TPU.replace("s32[]{:T(128)} constant(5)", "s32[]{:T(128)} add(%i.1, %i.1)")
    assert timer(MICRO).schedule(text).unknown == ("while",)


def test_lines_with_the_longest_first():
    lines = timer(MICRO).schedule(TPU).by_line()
    assert [line.rsplit("/")[-1] for line in lines if line] == ["model.py:9 (layer)", "model.py:7 (layer)"]


@pytest.mark.parametrize(("closed", "hops"), [((True,), 1), ((False,), 3)])
def test_a_message_takes_the_shorter_way(closed, hops):
    wires = Wires(np.arange(4)[:, None], (4,), closed, 1e9, 1e-6, 0.0)
    assert wires.permute(np.array([[3, 0]]), 0.0) == pytest.approx(hops * 1e-6)


def test_messages_on_one_wire_wait_for_each_other():
    wires = Wires(np.arange(4)[:, None], (4,), (False,), 1e9, 0.0, 0.0)
    shift = np.array([[0, 1], [1, 2], [2, 3]])
    assert wires.permute(shift, 1e9) == pytest.approx(1.0)
    assert wires.permute(np.concatenate([shift, [[3, 0]]]), 1e9) == pytest.approx(1.0)
    assert wires.permute(np.array([[0, 3], [1, 2]]), 1e9) == pytest.approx(2.0)


def test_a_ring_walked_both_ways_shares_no_wire_though_it_turns():
    wires = Wires(np.argwhere(np.ones((2, 4))), (2, 4), (False, True), 1e9, 0.0, 0.0)
    order = [0, 1, 2, 3, 7, 6, 5, 4]
    there = np.array(list(zip(order, order[1:] + order[:1])))
    ahead, behind = wires.taken(there), wires.taken(there[:, ::-1])
    assert len(ahead) == len(behind) == 8
    assert not ahead & behind
    assert ahead & wires.taken(there[:3])


def test_a_gather_takes_every_wire_of_its_torus_axes():
    wires = Wires(np.argwhere(np.ones((2, 4))), (2, 4), (False, True), 1e9, 0.0, 0.0)
    columns = np.arange(8).reshape(2, 4)
    assert {axis for _, axis, _ in wires.along(columns)} == {1}
    assert len(wires.along(columns)) == len(wires.along(columns.T)) == 2 * 8
    assert wires.along(columns.reshape(1, 8)) == wires.along(columns) | wires.along(columns.T)
    assert wires.taken(np.array([[0, 1]])) < wires.along(columns)


def test_what_jax_compiles_for_the_cpu():
    mesh = cpu_mesh(2, 4)

    def fun(x, w):
        return jnp.tanh(x @ w).sum()

    def put(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    text = jax.jit(fun).lower(put((8, 16), None, "y"), put((16, 32), "y")).compile()
    found = timer_of(mesh, "tpu-v4").schedule(text)
    moves = [s.collective for s in found.spans if s.collective]
    assert ("all_reduce", ("y",), 4 * 8 * 32) in [(m.kind, m.span.axes, m.nbytes) for m in moves]
    assert any(m.source.endswith("(fun)") for m in moves)
    assert found.exposed > 0
    assert not found.estimated
