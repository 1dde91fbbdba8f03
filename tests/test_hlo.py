"""The reader of HLO texts, on recorded ones and on what jax compiles for the CPU."""

import jax
import jax.numpy as jnp
import pytest
from recorded import TPU

from planner.audit import hlo
from planner.audit.trips import trips_of
from planner.errors import AuditError


def test_computations_and_instructions_in_schedule_order():
    module = hlo.read(TPU)
    assert list(module.computations) == ["add.2", "all-reduce-scatter", "body", "condition", "main_spmd"]
    names = [i.name for i in module.main.instructions]
    assert names == ["param", "zero", "copy-start", "copy-done", "init", "while", "result"]
    assert module.main.root.name == "result"


def test_parts_of_an_instruction():
    body = hlo.read(TPU).computations["body"].by_name
    start, dot = body["start"], body["dot"]
    assert (start.opcode, start.operands) == ("all-gather-start", ("x",))
    assert start.arrays == (hlo.Array("bf16", (8, 16)), hlo.Array("bf16", (16, 16)))
    assert start.nbytes == 2 * (8 * 16 + 16 * 16)
    assert start.op_name == "jit(f)/while/body/scope/dot_general"
    assert start.source.endswith("model.py:7 (layer)")
    assert dot.calls == ("add.2",)
    assert dot.cycles == 1050
    assert body["sum"].cycles is None


def test_a_quote_in_a_name_ends_nothing():
    assert "param" in hlo.read(TPU).main.by_name["param"].opcode
    assert hlo.read(TPU).main.by_name["param"].op_name == r"x[\'w\']"


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("f32[]", [()]),
        ("f32[2,3]{1,0:T(8,128)(2,1)S(3)}", [(2, 3)]),
        ("((bf16[2]{0}), s32[]{:S(2)}, /*index=2*/pred[4,<=8]{1,0})", [(2,), (), (4, 8)]),
        ("token[]", [()]),
    ],
)
def test_types(text, shapes):
    assert [a.shape for a in hlo.arrays(text)] == shapes


@pytest.mark.parametrize(("dtype", "nbytes"), [("bf16", 2), ("pred", 1), ("f8e4m3fn", 1), ("s4", 0.5), ("c64", 8)])
def test_bytes(dtype, nbytes):
    assert hlo.Array(dtype, (3,)).nbytes == 3 * nbytes


def test_trips_from_the_condition():
    module = hlo.read(TPU)
    assert trips_of(module, module.main.by_name["while"]) == 5


def test_trips_that_nobody_knows():
    module = hlo.read(TPU.replace("s32[]{:T(128)} constant(5)", "s32[]{:T(128)} add(%i.1, %i.1)"))
    assert trips_of(module, module.main.by_name["while"]) is None


def test_source_lines_in_the_older_notation():
    older = 'metadata={op_name="jit(f)/add" source_file="/somewhere/model.py" source_line=3}'
    module = hlo.read(TPU.replace("to_apply=%add.2\n  %one", f"to_apply=%add.2, {older}\n  %one"))
    assert module.computations["body"].by_name["sum"].source.endswith("model.py:3")


@pytest.mark.parametrize("text", ["", "not HLO at all", TPU.replace("ENTRY ", "")])
def test_what_is_no_program(text):
    with pytest.raises(AuditError, match="no ENTRY computation"):
        hlo.read(text)


def test_what_jax_compiles_for_the_cpu():
    def step(x, w):
        return jnp.tanh(x @ w), None

    fun = jax.jit(lambda x, ws: jax.lax.scan(step, x, ws)[0])
    text = fun.lower(jnp.ones((8, 8)), jnp.ones((6, 8, 8))).compile().as_text()
    module = hlo.read(text)
    loops = [i for c in module.computations.values() for i in c.instructions if i.opcode == "while"]
    assert [trips_of(module, loop) for loop in loops] == [6]
    line = f"test_hlo.py:{step.__code__.co_firstlineno + 1} (step)"
    assert any(i.source.endswith(line) for c in module.computations.values() for i in c.instructions)
