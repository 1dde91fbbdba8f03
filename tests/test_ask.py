"""Questions to a plan: a constraint costs what planning again with it says that it costs."""

import jax
import numpy as np
import pytest
from jax import P
from planned import ABSTRACT, V, W, X, mlp

import planner
from planner import errors, make_plan, testing
from planner.ask import spec_of
from planner.sharding import to_spec

SPECS = [P(), P("x"), P(None, "x"), P(("x", "y")), P("y", "x"), P(None, ("y", "x"))]


@pytest.fixture(scope="module")
def plan():
    return make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("i", range(3))
def test_a_constraint_costs_what_planning_with_it_says(plan, i, spec):
    answer = planner.why(plan, plan.arguments[i].name, spec)
    pinned = make_plan(
        mlp,
        X,
        W,
        V,
        mesh=ABSTRACT,
        machine=testing.EAGER,
        in_shardings=tuple(spec if j == i else None for j in range(3)),
    )
    assert answer.other is not None
    assert [set(axes) for axes in answer.other.arguments[i].spec] == [set(axes) for axes in pinned.arguments[i].spec]
    more = answer.seconds - plan.seconds
    assert answer.bound <= pinned.seconds * (1 + 1e-9)
    assert answer.seconds <= pinned.seconds + 0.11 * more + 1e-6 * plan.seconds
    assert more >= -1e-6 * plan.seconds
    assert ("more (" in str(answer)) == (more > 1e-4 * plan.seconds) or answer.wanted == answer.planned


def test_what_the_plan_has_costs_nothing(plan):
    value = plan.arguments[1]
    answer = planner.why(plan, value.name, to_spec(value.spec))
    assert answer.planned == answer.wanted and "that is what the plan has" in str(answer)
    assert answer.seconds == plan.seconds


def test_results_and_operations_have_names_too(plan):
    result = planner.why(plan, "result 0", P(None, "y"))
    assert result.wanted == P(None, "y") and result.seconds >= plan.seconds
    line = next(op.source for op in plan.operations if op.primitive == "tanh")
    inner = planner.why(plan, f"{line} tanh", "P(None, x)")
    assert inner.wanted == P(None, "x") and np.isfinite(inner.seconds)
    path = next(op.path for op in plan.operations if op.primitive == "tanh")
    assert planner.why(plan, path, P(None, "x")).seconds == inner.seconds


def test_a_line_that_grows_is_named():
    """A whole result on every device has to be gathered."""
    large = [jax.ShapeDtypeStruct(s, "float32") for s in [(4096, 512), (512, 2048), (2048, 512)]]
    plan = make_plan(mlp, *large, mesh=ABSTRACT, machine="tpu-v4")
    worst = planner.why(plan, "result 0", P())
    assert worst.seconds > 1.1 * plan.seconds
    text = str(worst)
    assert "What changes, by source line" in text and "planned.py:" in text and "more (" in text
    assert "are proven" in text


def test_memory_may_forbid_it():
    held = [v.nbytes for v in make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER).arguments]
    whole = sum(a.size * a.dtype.itemsize for a in (W, V))
    tight = make_plan(mlp, X, W, V, mesh=ABSTRACT, machine=testing.EAGER, memory_limit=max(whole, sum(held)) / 2)
    answer = planner.why(tight, tight.arguments[1].name, P())
    assert answer.other is None and np.isinf(answer.seconds) and 0 < answer.short <= answer.excess
    assert "memory forbids it" in str(answer) and "more per chip" in str(answer)


def test_what_no_strategy_gives_is_said_to_be_impossible():
    fun = jax.numpy.tanh
    odd = make_plan(fun, jax.ShapeDtypeStruct((6, 8), "float32"), mesh=ABSTRACT, machine=testing.EAGER)
    answer = planner.why(odd, odd.arguments[0].name, P(("x", "y")))
    assert answer.other is None and "does not divide dim 0 of size 6" in answer.reason
    assert "impossible" in str(answer)


def test_a_plan_from_a_file_asks_for_its_function(plan, tmp_path):
    plan.save(tmp_path / "a.json")
    kept = planner.Plan.load(tmp_path / "a.json")
    name = plan.arguments[1].name
    with pytest.raises(errors.PlanError, match="give the function and its arguments too"):
        planner.why(kept, name, P("x"))
    again = planner.why(kept, name, P("x"), mlp, X, W, V, machine=testing.EAGER)
    assert again.seconds == pytest.approx(planner.why(plan, name, P("x")).seconds, rel=1e-6)
    with pytest.raises(errors.PlanMismatchError):
        planner.why(kept, name, P("x"), lambda x, w, v: x @ w @ v, X, W, V, machine=testing.EAGER)


def test_names_that_are_none_or_several(plan):
    with pytest.raises(errors.PlanError, match="there is no value 'nowhere'"):
        planner.why(plan, "nowhere", P())
    with pytest.raises(errors.PlanError, match=r"'planned.py' are \d+ values; name one"):
        planner.why(plan, "planned.py", P())


def test_specs_that_are_none(plan):
    name = plan.arguments[0].name
    with pytest.raises(errors.MeshError, match="names mesh axis 'z'"):
        planner.why(plan, name, P("z"))
    with pytest.raises(errors.PlanError, match="names 3 dims, the array has 2"):
        planner.why(plan, name, P(None, None, "x"))


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("P()", P()),
        ("", P()),
        ("P(None, ('x', 'y'))", P(None, ("x", "y"))),
        ("None, (x, y)", P(None, ("x", "y"))),
        ("P(x)", P("x")),
        ("PartitionSpec('x', None, \"y\")", P("x", None, "y")),
        ("P('P')", P("P")),
    ],
)
def test_specs_as_text(text, spec):
    assert spec_of(text) == spec


@pytest.mark.parametrize("text", ["P(", "x y", "P(x+y)", "lambda: 0"])
def test_text_that_is_no_spec(text):
    with pytest.raises(errors.PlanError, match="is no spec: write one such as"):
        spec_of(text)
