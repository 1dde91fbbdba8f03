import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graphs import PLAIN, abstract_mesh, array, formulated, graph, named
from programs import mesh

from benchmarks.models import llama, mt_nlg, palm, tiny
from planner.cost.hardware import PRESETS
from planner.layouts import Layout, allowed, layouts, weight_matmuls
from planner.make import make_plan, make_setting
from planner.solve import ready, solve
from planner.stages import formulation_of, graph_of, known_layouts
from planner.strategy import REPEAT
from planner.trace import trace

FAMILIES = {"palm": palm, "llama": llama, "mt_nlg": mt_nlg}
ATTENTION, SWIGLU = {"wq", "wk", "wv", "wo"}, {"gate", "up", "down"}
WEIGHTS = {
    "palm": ATTENTION | SWIGLU | {"embedding"},
    "llama": ATTENTION | SWIGLU | {"unembedding"},
    "mt_nlg": ATTENTION | {"up", "down", "embedding"},
}
CUBE = abstract_mesh(2, 2, 2)


def workload(family, kind):
    module = FAMILIES[family]
    if kind == "decode":
        return module.decode("tiny", batch=16, context=24)
    return getattr(module, kind)("tiny", batch=16, length=24)


def found_in(family, kind):
    """For each matmul with a weight: the weight's name, and the sizes of rows, model dim and other dim."""
    fun, args = workload(family, kind)
    some = graph(fun, *args)
    for w in weight_matmuls(some):
        name = some.nodes[w.weight].name.rstrip("']").rsplit("'", 1)[-1]
        sizes = some.nodes[w.node].rule.sizes
        yield name, tuple(tuple(sizes[f] for f in part) for part in (w.rows, w.model, w.other))


@pytest.mark.parametrize("kind", ["decode", "prefill"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_a_model_is_found_once(family, kind):
    names = [name for name, _ in found_in(family, kind)]
    assert set(names) == WEIGHTS[family]
    assert len(names) == len(WEIGHTS[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_model_and_other(family):
    config = tiny(family)
    h, d, f = config.heads, config.d_head, config.d_ff
    kv = config.kv_shape
    other = {"wq": (h, d), "wk": kv, "wv": kv, "wo": (h, d), "gate": (f,), "up": (f,), "down": (f,)}
    other |= {"embedding": (config.vocab,), "unembedding": (config.vocab,)}
    for name, (rows, model, others) in found_in(family, "decode"):
        assert (name, rows, model, others) == (name, (16,), (config.d_model,), other[name])


def test_both_matmuls_of_the_backward_pass_that_hold_a_weight_count():
    names = [name for name, _ in found_in("llama", "train")]
    assert set(names) >= WEIGHTS["llama"]
    assert names.count("down") > 1


def test_a_cache_is_no_weight():
    """Scores and mixing read what decode has just written, prefill what it has just made."""
    fun, args = workload("llama", "decode")
    some = graph(fun, *args)
    assert len(named(some, "dot_general")) == len(weight_matmuls(some)) + 2


def test_small_weights_do_not_count():
    def fun(x, w, router):
        return jnp.tanh(x @ w) @ w.T, x @ router

    some = graph(fun, array(8, 1024), array(1024, 1024), array(1024, 2))
    assert {some.nodes[w.weight].name for w in weight_matmuls(some)} == {"w"}


def test_an_input_of_many_rows_is_no_weight_though_its_gradient_contracts_it():
    """FSDP, restricted to its matmuls, is then as good as what the planner finds: it is the same plan."""

    def loss(ws, x):
        return jnp.mean((jnp.tanh(x @ ws[0]) @ ws[1]) ** 2)

    def step(ws, x):
        return [w - 0.1 * g for w, g in zip(ws, jax.grad(loss)(ws, x))]

    args = [array(64, 128), array(128, 64)], array(1 << 14, 64)
    some = graph(step, *args)
    assert {some.nodes[w.weight].name for w in weight_matmuls(some)} == {"ws[0]", "ws[1]"}
    plan = make_plan(step, *args, mesh=abstract_mesh(8), machine="tpu-v4")
    assert min(k.seconds for k in plan.known if k.seconds) == pytest.approx(plan.seconds, rel=0.05)


def test_a_program_without_weights():
    some = graph(lambda x: jnp.sin(x), array(8))
    assert weight_matmuls(some) == ()


def test_the_names_people_know():
    assert {la.name for la in layouts(3)} == {
        "data parallel",
        "FSDP",
        "Megatron 1-D",
        "1-D weight-stationary",
        "2-D weight-stationary",
        "weight-gathered 1/3",
        "weight-gathered 2/3",
        "weight-gathered 3/3",
    }


@pytest.mark.parametrize("layout", layouts(3), ids=str)
def test_each_axis_has_one_job(layout):
    assert layout.rows & layout.model == layout.rows & layout.other == layout.model & layout.other == 0
    assert layout.rows | layout.model | layout.other == 7


@pytest.fixture(scope="module")
def mlp():
    def fun(x, up, down):
        return jnp.tanh(x @ up) @ down

    return formulated(fun, array(32, 64), array(64, 128), array(128, 64), mesh=CUBE, machine=PLAIN)


@pytest.mark.parametrize("layout", layouts(3), ids=str)
def test_a_layout_leaves_its_own_strategies(mlp, layout):
    """rows → rows of the activations, model → contracted by `up` and kept by `down`, other → the reverse."""
    weights = weight_matmuls(mlp.graph)
    assert len(weights) == 2
    masks = allowed(mlp, layout, weights)
    for w in weights:
        left = mlp.strategies[w.node].jobs[masks[w.node]]
        jobs = dict(zip((*w.rows, *w.model, *w.other), (layout.rows, layout.model, layout.other)))
        expected = [next((f for f, mask in jobs.items() if mask >> a & 1), REPEAT) for a in range(3)]
        assert np.unique(left, axis=0).tolist() == [expected]


def test_weights_are_stored_as_the_layout_says(mlp):
    weights = weight_matmuls(mlp.graph)

    def stored(layout):
        mask = allowed(mlp, layout, weights)[weights[0].weight]
        return {tuple(row[:2]) for row in mlp.strategies[weights[0].weight].result(0)[mask].tolist()}

    by_name = {la.name: la for la in layouts(3)}
    assert stored(by_name["data parallel"]) == {(0, 0)}
    assert {a | b for a, b in stored(by_name["FSDP"])} == {7}
    assert stored(by_name["weight-gathered 2/3"]) == {(1, 6)}
    assert len(stored(by_name["1-D weight-stationary"])) == 27


def test_megatron_keeps_the_model_dim_whole():
    """On places that hold activations: here a sum with two readers."""

    def fun(x, up, down):
        y = x + jnp.tanh(x @ up) @ down
        return y, jnp.exp(y @ up)

    f = formulated(fun, array(32, 64), array(64, 128), array(128, 64), mesh=CUBE)
    masks = allowed(f, Layout("Megatron 1-D", other=7, whole_model=True), weight_matmuls(f.graph))
    for n, node in enumerate(f.graph.nodes):
        if node.role in ("value", "copy") and node.avals[0].shape[-1] == 64:
            left = f.strategies[n].result(0)[masks[n]]
            assert len(left) and not left[:, 1].any()


def test_nothing_else_is_restricted(mlp):
    weights = weight_matmuls(mlp.graph)
    assert set(allowed(mlp, layouts(3)[0], weights)) == {n for w in weights for n in (w.node, w.weight)}


def test_a_layout_is_never_better_than_the_plan_and_the_plan_starts_from_them(mlp):
    best = solve(mlp.problem).seconds
    for known, solution in known_layouts(mlp, ready(mlp.problem), 1.0):
        assert known.seconds is None or known.seconds == solution.seconds >= best * (1 - 1e-9)


def test_an_axis_that_divides_no_row_repeats():
    """Batch 2 on eight devices: rows split once, the other axes repeat."""
    f = formulated(lambda x, w: x @ w, array(2, 64), array(64, 64), mesh=CUBE)
    (w,) = weight_matmuls(f.graph)
    left = f.strategies[w.node].jobs[allowed(f, layouts(3)[0], [w])[w.node]]
    assert left.tolist() == [[*w.rows, REPEAT, REPEAT]]


def test_every_layout_of_a_tiny_model_is_scored():
    fun, args = workload("palm", "decode")
    setting = make_setting(mesh(2, 2, 2), PRESETS["tpu-v4"])
    program = trace(fun, args, {}, setting.mesh)
    formulation = formulation_of(program, graph_of(program, setting, None, None), setting)
    scored = {known.name: known for known, _ in known_layouts(formulation, ready(formulation.problem), 1.0)}
    assert set(scored) == {la.name for la in layouts(3)}
    for name in ("data parallel", "1-D weight-stationary", "2-D weight-stationary"):
        assert scored[name].seconds, scored[name]
