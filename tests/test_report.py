import jax
import jax.numpy as jnp
import pytest
from graphs import abstract_mesh, array
from jax.sharding import PartitionSpec as P

from planner import compare, explain, make_plan
from planner.report import seconds, short, size, spec

E, F = 8192, 32768


def fun(w, x):
    y = jnp.tanh(x @ w["up"]) @ w["down"]
    return jax.lax.while_loop(lambda c: c[0, 0] < 0, lambda c: c, x + y)


def planned(batch=32, **options):
    args = (
        {"up": array(E, F, dtype=jnp.bfloat16), "down": array(F, E, dtype=jnp.bfloat16)},
        array(batch, E, dtype=jnp.bfloat16),
    )
    options = {"machine": "tpu-v4", "in_shardings": (None, P()), **options}
    return make_plan(fun, *args, mesh=abstract_mesh(2, 4), **options)


@pytest.fixture(scope="module")
def plan():
    return planned()


@pytest.fixture(scope="module")
def text(plan):
    return explain(plan)


def line(text, *words):
    """The one line with all of these words."""
    (found,) = [row for row in text.splitlines() if all(word in row for word in words)]
    return found


def test_it_opens_with_the_answer(plan, text):
    first, second = text.splitlines()[:2]
    assert first == "fun on tpu-v4, mesh x=2 y=4"
    for fact in (seconds(plan.seconds), seconds(plan.bound), f"{plan.gap:.2%}", plan.status):
        assert fact in second
    assert f"peak {size(plan.peak_bytes)} of {size(plan.limit)}" in second


def test_every_argument_and_result_has_its_spec(plan, text):
    for value in (*plan.arguments, *plan.results):
        row = line(text, f"{value.name} ", f"{value.dtype}{list(value.shape)}", "P(")
        assert spec(value.spec) in row and size(value.nbytes) in row


def test_known_layouts_stand_beside_the_plan(plan, text):
    assert plan.known
    for known in plan.known:
        row = line(text, f" {known.name} ")
        if known.seconds is None:
            assert known.note in row
        else:
            assert seconds(known.seconds) in row and f"{known.seconds / plan.seconds:.2f}" in row
    assert "1.00" in line(text, "this plan")


def test_time_goes_by_source_line(plan, text):
    matmuls = [op for op in plan.operations if op.primitive == "dot_general"]
    assert len(matmuls) == 2
    for op in matmuls:
        assert op.notation in text
    (source,) = {op.source for op in matmuls}
    local = sum(op.seconds for op in plan.operations if op.source == source)
    comms = sum(c.seconds for c in plan.collectives if c.source == source)
    row = line(text, f" {short(source)} ", "%")
    assert seconds(local) in row and seconds(comms) in row
    assert f"{(local + comms) / plan.seconds:.1%}" in row


def test_collectives_stand_at_their_line(plan, text):
    assert plan.collectives
    for c in plan.collectives:
        if c.seconds > 0.01 * plan.seconds:
            assert f"{c.kind}({''.join(c.axes)}) {size(c.nbytes)}" in text


def test_shares_sum_to_the_whole(text):
    rows = [row for row in text.splitlines() if row.rstrip(" │").endswith("%") and "gap" not in row]
    total = sum(float(row.rstrip(" │").rsplit(" ", 1)[-1][:-1]) for row in rows)
    assert total == pytest.approx(100, abs=0.5)


def test_memory_names_its_holders(plan, text):
    largest = plan.holders[0]
    assert size(largest.nbytes) in line(text, size(largest.nbytes), largest.name[:40])


def test_legend_and_notes_are_shown(plan, text):
    assert plan.legend in text
    (note,) = plan.notes
    assert "trip count" in note and "note: unknown trip count" in text


def test_no_colour_and_no_trailing_space(text):
    assert "\x1b" not in text
    assert all(row == row.rstrip() for row in text.splitlines())
    assert max(map(len, text.splitlines())) <= 150


def test_a_narrower_page(plan):
    assert max(map(len, explain(plan, width=100).splitlines()[3:20])) <= 100


def test_compare_says_what_changed(plan):
    other = planned(batch=4096, machine="tpu-v5e", known=False)
    text = compare(plan, other)
    for name in ("seconds", "bound"):
        a, b = getattr(plan, name), getattr(other, name)
        row = line(text, f" {name} ")
        assert seconds(a) in row and seconds(b) in row and f"{b / a:.3f}" in row
    row = line(text, " peak_bytes ")
    assert size(plan.peak_bytes) in row and size(other.peak_bytes) in row
    row = line(text, " machine ")
    assert "tpu-v4" in row and "tpu-v5e" in row


def test_compare_lists_specs_that_differ_only(plan):
    other = planned(in_shardings=({"up": P("x", "y"), "down": P()}, P()), known=False)
    text = compare(plan, other)
    changed = line(text, "w['up']")
    assert spec((("x",), ("y",))) in changed and spec(plan.arguments[1].spec) in changed
    assert not [row for row in text.splitlines() if "│ x " in row and "P(" in row]


def test_compare_counts_collectives(plan):
    other = planned(in_shardings=({"up": P("x", "y"), "down": P()}, P()), known=False)
    text = compare(plan, other)
    for side in (plan, other):
        for kind in {c.kind for c in side.collectives}:
            count = sum(c.trips for c in side.collectives if c.kind == kind)
            time = sum(c.seconds for c in side.collectives if c.kind == kind)
            row = line(text, f" {kind} ")
            assert f" {count:g} " in row and seconds(time) in row


def test_a_plan_compared_with_itself_differs_in_nothing(plan):
    text = compare(plan, plan)
    assert "P(" not in text and "1.000" in line(text, " seconds ")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0"), (2.0, "2 s"), (0.0123, "12.3 ms"), (4.56e-6, "4.56 µs"), (1e-9, "0.001 µs"), (123.0, "123 s")],
)
def test_times(value, expected):
    assert seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0 B"), (999, "999 B"), (1e3, "1 kB"), (1.5e6, "1.5 MB"), (2.345e10, "23.4 GB")]
)
def test_sizes(value, expected):
    assert size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [((), "P()"), (((), ()), "P(None, None)"), ((("x",), ("y", "z")), "P('x', ('y', 'z'))")],
)
def test_specs(value, expected):
    assert spec(value) == expected


def test_sources_without_folders():
    assert short("/a/b/model.py:3 (f)") == "model.py:3 (f)"
    assert short("") == "(no source)"
