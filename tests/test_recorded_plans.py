"""What the planner decides today, so that a change of mind shows in a review. Anew: `pytest --snapshot-update`."""

import pytest
from graphs import abstract_mesh

from benchmarks.models import llama, mt_nlg, palm
from planner import Chip, Fabric, Machine, make_plan
from planner.report import spec

TINY = {"palm": palm, "llama": llama, "mt_nlg": mt_nlg}


SLOW = Machine("slow", Chip("slow", {"float32": 1e9}, 1e9, 1e9), Fabric(1e9, 1e-7, torus=3, wraps=4))
"""So slow that even a tiny model pays to be split."""


def planned(workload, *sizes, machine):
    fun, args = workload
    return make_plan(fun, *args, mesh=abstract_mesh(*sizes), machine=machine, known=False, donate_argnums=1)


def record(plan):
    """Decisions only: no versions, no source lines, and few enough digits to be the same on every machine."""
    yield f"{plan.machine} {plan.mesh_shape} {plan.status}"
    yield f"{plan.seconds:.4g} s, {plan.peak_bytes:.4g} bytes, gap below {max(plan.gap, 1e-6):.0e}"
    yield plan.legend
    yield from (f"{v.name} {spec(v.spec)}" for v in (*plan.arguments, *plan.results))
    yield from (op.notation for op in plan.operations if op.primitive == "dot_general")
    yield from (f"{c.kind} {''.join(c.axes)} {c.nbytes:.4g} × {c.trips:g} {c.value}" for c in plan.collectives)
    yield from plan.notes


@pytest.mark.parametrize("family", TINY)
def test_tiny_models(family, snapshot):
    """Two sequences: the batch alone cannot keep eight devices busy."""
    plan = planned(TINY[family].decode("tiny", 2, 32), 2, 2, 2, machine=SLOW)
    assert "\n".join(record(plan)) == snapshot


def test_palm_540b_decodes_512_sequences_on_a_cube(snapshot):
    plan = planned(palm.decode_540b_b512(), 4, 4, 4, machine="tpu-v4")
    assert "\n".join(record(plan)) == snapshot


def test_planning_again_gives_the_same_bytes():
    texts = [planned(llama.decode("tiny", 2, 32), 2, 2, 2, machine=SLOW).to_json() for _ in range(2)]
    assert texts[0] == texts[1]
