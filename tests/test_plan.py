import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from graphs import abstract_mesh, array, program
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from programs import mesh

from passes.jaxpr import walk
from planner import Plan, make_plan
from planner.errors import PlanFileError
from planner.plan import SCHEMA, key_of, tree_of
from planner.trace import trace


def fun(params, batch):
    def layer(c, w):
        return jnp.tanh(c @ w), None

    y, _ = jax.lax.scan(layer, batch["x"] @ params[0], params[1])
    return {"out": y, "sum": (jnp.sum(y),)}


ARGS = ([array(64, 64), array(3, 64, 64)], {"x": array(16, 64)})
MESH = abstract_mesh(2, 4)


def planned(**options):
    return make_plan(fun, *ARGS, mesh=MESH, machine="tpu-v4", in_shardings=([P(None, "y"), None], P("x")), **options)


@pytest.fixture(scope="module")
def plan():
    return planned()


def test_a_plan_survives_its_file(plan, tmp_path):
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan and hash(loaded) == hash(plan)
    assert loaded.fingerprint == plan.fingerprint
    assert loaded.to_json() == plan.to_json() == (tmp_path / "plan.json").read_text(encoding="utf-8")
    assert loaded.pins() == plan.pins()


def test_every_field_survives(plan):
    loaded = Plan.from_json(plan.to_json())
    assert loaded.model_dump() == plan.model_dump()
    assert set(json.loads(plan.to_json())) == set(Plan.model_fields)


def test_a_changed_field_is_another_plan(plan):
    other = plan.model_copy(update={"seconds": plan.seconds * 2})
    assert other != plan and other.fingerprint != plan.fingerprint
    assert plan != plan.to_json()


def test_planning_again_is_the_same_plan(plan):
    again = planned()
    assert again == plan
    assert again.timings and "timings" not in again.to_json()


def test_the_plan_says_what_it_is_for(plan):
    assert plan.mesh == {"x": 2, "y": 4} and str(plan.mesh_shape) == "x=2,y=4"
    assert plan.machine == "tpu-v4" and plan.function == "fun" and plan.schema_version == SCHEMA
    assert plan.versions["jax"] == jax.__version__
    assert plan.peak_bytes <= plan.limit


def test_the_gap_is_a_share_of_the_time(plan):
    assert plan.model_copy(update={"seconds": 4.0, "bound": 3.0}).gap == 0.25
    assert plan.model_copy(update={"seconds": 4.0, "bound": 5.0}).gap == 0.0
    assert plan.model_copy(update={"seconds": 0.0, "bound": 0.0}).gap == 0.0
    assert plan.bound <= plan.seconds * (1 + 1e-9)


def test_specs_come_in_the_users_structure(plan):
    (first, second), batch = plan.in_specs
    assert tuple(first) == (None, "y") and batch == {"x": P("x")}
    assert isinstance(second, P)
    assert plan.out_specs["sum"] == (P(),)


def test_specs_of_a_loaded_plan_come_as_dicts_and_tuples(plan):
    loaded = Plan.from_json(plan.to_json())
    assert loaded.in_specs == tuple(tuple(a) if isinstance(a, list) else a for a in plan.in_specs)
    assert loaded.out_specs == plan.out_specs


def test_abstract_arguments_have_shardings(plan):
    concrete = mesh(2, 4)
    (first, _), batch = plan.abstract_args(concrete)
    assert batch["x"].sharding == NamedSharding(concrete, P("x"))
    assert first.shape == (64, 64) and first.dtype == jnp.float32


def test_bytes_per_chip_are_those_of_the_spec(plan):
    x = next(v for v in plan.arguments if v.name == "batch['x']")
    assert x.nbytes == 4 * 8 * 128  # eight rows of 64, padded to 128 lanes


def test_pins_lead_to_equations(plan):
    paths = {path for path, _ in walk(program(fun, *ARGS).closed)}
    assert set(plan.pins()) <= paths


def test_seconds_are_those_of_work_and_collectives(plan):
    parts = sum(op.seconds for op in plan.operations) + sum(c.seconds for c in plan.collectives)
    assert plan.seconds == pytest.approx(parts, rel=1e-3)  # storage breaks ties


def test_flops_count_every_trip(plan):
    dots = [op for op in plan.operations if op.primitive == "dot_general"]
    assert sorted(op.trips for op in dots) == [1, 3]
    for op in dots:
        assert op.trips * 2 * 16 * 64 * 64 / op.flops in (1, 2, 4, 8)  # devices that share it


def test_damaged_files_are_refused(plan, tmp_path):
    text = plan.to_json()
    for broken in ("", "{", text[: len(text) // 2], text.replace('"seconds"', '"secunds"', 1), "[]"):
        with pytest.raises(PlanFileError, match="no whole plan file"):
            Plan.from_json(broken, "p.json")
    with pytest.raises(PlanFileError, match=r"cannot read the plan .*missing\.json"):
        Plan.load(tmp_path / "missing.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PlanFileError, match="cannot read"):
        Plan.load(tmp_path / "binary")


def test_a_newer_schema_is_refused_by_name(plan):
    newer = plan.to_json().replace(f'"schema_version": {SCHEMA}', f'"schema_version": {SCHEMA + 1}')
    with pytest.raises(PlanFileError, match=f"p.json has schema {SCHEMA + 1}.*upgrade"):
        Plan.from_json(newer, "p.json")


@jax.tree_util.register_dataclass
@dataclass
class Pair:
    left: Any
    right: Any


TREES = [
    1,
    (1, 2),
    ({"b": 1, "a": (2, 3)}, 4),
    (1, (2, (3,)), {"x": {"y": 4}}),
    {"10": 1, "9": 2},
    tuple(range(12)),
]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_keys_and_trees_are_inverse(tree):
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    assert tree_of([key_of(path) for path, _ in flat], [leaf for _, leaf in flat]) == tree


def test_named_nodes_become_dicts():
    flat = jax.tree_util.tree_flatten_with_path(Pair([1, 2], {3: 4}))[0]
    keys = [key_of(path) for path, _ in flat]
    assert keys[0] == (("attr", "left"), ("index", 0))
    assert tree_of(keys, [leaf for _, leaf in flat]) == {"left": (1, 2), "right": {3: 4}}


def test_a_program_is_known_by_what_it_does():
    def twice(x):
        return jnp.sin(x) * 2.0

    def also_twice(x):

        return jnp.sin(x) * 2.0

    prints = {f: program(f, array(8)).fingerprint for f in (twice, also_twice)}
    assert prints[twice] == prints[also_twice]
    others = [
        program(lambda x: jnp.sin(x) * 3.0, array(8)),
        program(twice, array(9)),
        program(twice, array(8, dtype=jnp.bfloat16)),
        program(twice, array(8), donate_argnums=0),
        program(lambda y: jnp.sin(y) * 2.0, array(8)),
    ]
    assert prints[twice] not in [p.fingerprint for p in others]
    assert len({p.fingerprint for p in others}) == len(others)


def test_custom_derivatives_do_not_shake_the_fingerprint():
    """Their jaxprs print with addresses."""
    prints = {program(lambda x: jax.nn.relu(x) + jax.nn.silu(x), array(8)).fingerprint for _ in range(2)}
    assert len(prints) == 1


def test_tied_results_are_matched_in_order():
    def swap(a, b):
        return b + 1, a + 1, jnp.sum(a)

    traced = trace(swap, (array(8), array(8)), {}, mesh(8), donate_argnums=(0, 1))
    assert traced.ties() == {0: 0, 1: 1}
    assert trace(swap, (array(8), array(8)), {}, mesh(8), donate_argnums=1).ties() == {0: 1}
    assert trace(swap, (array(8), array(8)), {}, mesh(8)).ties() == {}
