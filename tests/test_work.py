from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from graphs import array, graph, named
from jax import P, lax

from planner.cost.hardware import PRESETS
from planner.graph import Aval, Port
from planner.liveness import buffers
from planner.rules import rule_for
from planner.sharding import MeshShape
from planner.strategy import NO_RING, enumerate_strategies
from planner.work import (
    Read,
    compute_dtype,
    fetched_bytes,
    flying_bytes,
    held_bytes,
    is_matmul,
    local_flops,
    moved_bytes,
    operand_avals,
)

V4, CPU = PRESETS["tpu-v4"].chip, PRESETS["cpu"].chip
LINE = MeshShape(("x",), (64,))
M, K, N = 0, 1, 2
WHOLE = -1


def matmul(m, k, n):
    found = rule_for("dot_general", ((m, k), (k, n)), ((m, n),), {"dimension_numbers": (((1,), (0,)), ((), ()))})
    assert found is not None
    return found


def strategies(rule, *jobs, mesh=LINE):
    found = enumerate_strategies(rule, mesh)
    return found.keep(np.array([np.flatnonzero((found.jobs == job).all(1))[0] for job in jobs]))


def flops(chip, rule, job):
    return float(local_flops(rule, strategies(rule, [job]), chip)[0])


@pytest.mark.parametrize("job", [WHOLE, M, K, N])
def test_a_matmul_of_whole_tiles_is_two_flops_a_point(job):
    rule = matmul(8192, 8192, 16384)
    assert flops(V4, rule, job) == 2 * 8192 * 8192 * 16384 / (1 if job == WHOLE else 64)


def test_a_narrow_shard_of_a_contracted_head_costs_as_much_as_a_whole_tile():
    """256 split 64 ways is 4, which fills as many rows of the matrix unit as 128."""
    assert flops(V4, matmul(1024, 256, 1024), K) == flops(V4, matmul(1024, 128, 1024), WHOLE)


def test_a_narrow_kept_dim_streams_and_is_padded_to_sublanes():
    assert flops(V4, matmul(1024, 1024, 256), N) == flops(V4, matmul(1024, 1024, 8), WHOLE)
    assert flops(V4, matmul(256, 1024, 1024), M) == flops(V4, matmul(8, 1024, 1024), WHOLE)


def test_of_two_narrow_kept_dims_one_fills_the_matrix_unit():
    assert flops(V4, matmul(4, 1024, 4), WHOLE) == 2 * 8 * 1024 * 128


def test_columns_that_a_ring_cuts_do_not_stream():
    """64 chunks of 96 columns take as many tiles as chunks of 128."""
    rule = matmul(8192, 8192, 64 * 96)
    every = enumerate_strategies(rule, LINE, rings=True)
    scattered = every.keep((every.rings == (2, N, 1)).all(1) & (every.jobs == K).all(1))
    assert local_flops(rule, scattered, V4).tolist() == [2 * 8192 * 8192 * 128]
    rows = every.keep((every.rings == (2, M, 1)).all(1) & (every.jobs == K).all(1))
    assert local_flops(rule, rows, V4).tolist() == [2 * 8192 * 8192 * 96]


def test_columns_that_a_ring_cuts_stream_from_on_chip_memory():
    rule = matmul(8192, 8192, 64 * 96)
    scattered = enumerate_strategies(rule, LINE, rings=True)
    scattered = scattered.keep((scattered.rings == (2, N, 1)).all(1) & (scattered.jobs == K).all(1))
    assert local_flops(rule, scattered, V4, np.array([True])).tolist() == [2 * 8192 * 8192 * 96]


def test_filling_the_matrix_unit_from_on_chip_memory_takes_a_quarter_of_its_width():
    rule = matmul(8192, 8192, 64 * 8)
    scattered = enumerate_strategies(rule, LINE, rings=True)
    scattered = scattered.keep((scattered.rings == (2, N, 1)).all(1) & (scattered.jobs == K).all(1))
    assert local_flops(rule, scattered, V4, np.array([True])).tolist() == [2 * 8192 * 8192 * 128 / 4]


@pytest.mark.parametrize(
    ("memory", "sliced", "bytes_of"),
    [
        (1e6, (), {0: "k n", 1: "m k", 2: "m k, k n"}),
        (1e6, (1,), {0: "", 1: "m k", 2: "m k"}),
        (1, (), {}),
    ],
    ids=["fits", "a slice", "does not fit"],
)
def test_what_stays_in_a_ring_is_fetched_where_it_fits(memory, sliced, bytes_of):
    """What travels is not, nor what is read from a stack; and without a ring nothing is."""
    m, k, n = 64, 128, 256
    found = graph(lambda x, w: x @ w, array(m, k), array(k, n))
    (dot,) = named(found, "dot_general")
    operands = {i: Read(found.aval(Port(p)), True, i in sliced) for i, p in enumerate(found.inputs)}
    every = enumerate_strategies(found.nodes[dot].rule, MeshShape(("x",), (2,)), rings=True)
    sizes = {"m": every.local_sizes[:, M], "k": every.local_sizes[:, K], "n": every.local_sizes[:, N]}
    fetched = fetched_bytes(operands, every, replace(V4, on_chip=memory))
    for place in (0, 1, 2, NO_RING):
        pairs = [pair.split() for pair in bytes_of.get(place, "").split(",") if pair]
        want = sum((4 * sizes[a] * sizes[b] for a, b in pairs), np.zeros(len(every)))
        at = every.rings[:, 0] == place
        assert at.any() and (fetched[at] == want[at]).all()


@pytest.mark.parametrize("pin, fetched", [(None, True), (P("x"), True), (P(), False), (P(P.UNCONSTRAINED), True)])
def test_a_part_of_an_argument_that_does_not_fit_is_not_fetched(pin, fetched):
    """Half of the lhs would fit; passed whole it is read where it lies."""
    m, k, n = 64, 128, 256
    half = 4 * m * k / 2
    found = graph(lambda x, w: x @ w, array(m, k), array(k, n))
    (dot,) = named(found, "dot_general")
    operands = {i: Read(found.aval(Port(p)), True, pin=pin if i == 0 else None) for i, p in enumerate(found.inputs)}
    every = enumerate_strategies(found.nodes[dot].rule, MeshShape(("x",), (2,)), rings=True)
    one = every.keep((every.rings == (1, N, 1)).all(1) & (every.jobs == M).all(1))
    assert fetched_bytes(operands, one, replace(V4, on_chip=1.5 * half)).tolist() == [half if fetched else 0]


def test_what_is_fetched_is_read_once():
    """Of a ring that scatters columns the lhs, else read in each of its steps."""
    m, k, n, steps = 64, 128, 256, 2
    found = graph(lambda x, w: x @ w, array(m, k), array(k, n))
    (dot,) = named(found, "dot_general")
    operands = {i: Read(found.aval(Port(p)), True) for i, p in enumerate(found.inputs)}
    every = enumerate_strategies(found.nodes[dot].rule, MeshShape(("x",), (steps,)), rings=True)
    one = every.keep((every.rings == (2, N, 1)).all(1) & (every.jobs == K).all(1))
    moved = [moved_bytes(found.nodes[dot], operands, [True], one, near=np.array([near])) for near in (False, True)]
    rest = k / steps * n + m * n
    assert [x.tolist() for x in moved] == [[4 * (times * m * k / steps + rest)] for times in (steps, 1)]


def test_a_matrix_unit_of_256_wants_more():
    v6e = PRESETS["tpu-v6e"].chip
    assert flops(v6e, matmul(1024, 256, 1024), K) == flops(v6e, matmul(1024, 256, 1024), WHOLE)


def test_without_a_matrix_unit_nothing_is_padded():
    assert flops(CPU, matmul(4, 5, 7), WHOLE) == 2 * 4 * 5 * 7


def test_what_is_a_matmul():
    assert is_matmul(matmul(2, 3, 4))
    add = rule_for("add", ((4,), (4,)), ((4,),), {})
    assert add is not None and not is_matmul(add)


def moved(some, n, mesh, *jobs):
    held = buffers(some).stored
    kept = [Port(n, r) in held for r in range(len(some.nodes[n].avals))]
    operands = operand_avals(some, held, buffers(some).widened, buffers(some).cut)[n]
    return moved_bytes(some.nodes[n], operands, kept, strategies(some.nodes[n].rule, *jobs, mesh=mesh))


@pytest.mark.parametrize(("m", "k", "n"), [(8, 16, 32), (64, 8, 8)])
def test_a_matmul_reads_both_sides_and_writes_its_result(m, k, n):
    mesh = MeshShape(("x",), (2,))
    some = graph(lambda a, b: a @ b, array(m, k), array(k, n, dtype=jnp.float32))
    (dot,) = named(some, "dot_general")
    found = moved(some, dot, mesh, [WHOLE], [M], [K], [N])
    whole, over_m, over_k, over_n = (4 * size for size in _sizes(m, k, n))
    assert found.tolist() == [whole, over_m, over_k, over_n]


def _sizes(m, k, n):
    yield m * k + k * n + m * n
    yield m * k / 2 + k * n + m * n / 2
    yield m * k / 2 + k * n / 2 + m * n
    yield m * k + k * n / 2 + m * n / 2


def test_an_update_in_place_touches_only_the_update():
    some = graph(
        lambda c, r, i: lax.dynamic_update_slice(c, r, (i, 0)), array(1024, 8), array(1, 8), array(dtype=jnp.int32)
    )
    (update,) = named(some, "dynamic_update_slice")
    (found,) = moved(some, update, MeshShape(("x",), (2,)), [WHOLE])
    assert found == pytest.approx(4 * (8 + 8 + 8 + 1), abs=4)  # row of the cache read and written, the update, an index


def test_a_slice_reads_only_what_it_returns():
    some = graph(lambda x: jnp.concatenate([x[:2], x[2:4]]), array(1024, 8))
    sliced = named(some, "slice")[0]
    (found,) = moved(some, sliced, MeshShape(("x",), (2,)), [WHOLE])
    assert found == 2 * 4 * 2 * 8


@pytest.mark.parametrize("width, stored", [(128, 0), (64, 4 * 4 * (64 + 64 + 128))])
def test_halves_of_whole_tiles_are_joined_on_the_fly(width, stored):
    """Stored: both halves read, the result written."""

    def turned(x):
        y = jnp.sin(x)
        return jnp.cos(jnp.concatenate([-y[:, width:], y[:, :width]], -1))

    some = graph(turned, array(4, 2 * width))
    (joined,) = named(some, "concatenate")
    assert moved(some, joined, MeshShape(("x",), (2,)), [WHOLE]).tolist() == [stored]


def test_a_slice_of_a_stack_is_read_by_the_matmul_where_it_lies():
    some = graph(lambda stack, x, i: x @ stack[i], array(10, 8, 16), array(4, 8), array(dtype=jnp.int32))
    mesh, (dot,) = MeshShape(("x",), (2,)), named(some, "dot_general")
    for n in (*named(some, "dynamic_slice"), *named(some, "squeeze")):
        assert moved(some, n, mesh, [WHOLE]).tolist() in ([0.0], [12.0])  # an index for each dim at most
    assert moved(some, dot, mesh, [WHOLE]).tolist() == [4 * (8 * 16 + 4 * 8 + 4 * 16)]


def test_fused_values_do_not_move():
    some = graph(lambda x: jnp.sin(jnp.cos(x)), array(16, 8))
    mesh = MeshShape(("x",), (2,))
    (cos,), (sin,) = named(some, "cos"), named(some, "sin")
    assert moved(some, cos, mesh, [WHOLE]).tolist() == [4 * 16 * 8]  # reads only
    assert moved(some, sin, mesh, [WHOLE]).tolist() == [4 * 16 * 8]  # writes only


def test_literals_are_no_operands():
    some = graph(lambda x: x * 2.0, array(16, 8))
    (mul,) = named(some, "mul")
    assert list(operand_avals(some, frozenset())[mul]) == [0]


def test_buffers_are_padded_by_role():
    aval = Aval((256, 1, 100), "bfloat16", 2)
    layouts, mesh = np.array([[0, 0, 0, 0], [1, 0, 0, 0]]), MeshShape(("x",), (2,))
    assert held_bytes(aval, layouts, V4, mesh, "input").tolist() == [2 * 256 * 104, 2 * 128 * 104]
    assert held_bytes(aval, layouts, V4, mesh, "op").tolist() == [2 * 256 * 128, 2 * 128 * 128]
    assert held_bytes(aval, layouts, CPU, mesh, "op").tolist() == [2 * 256 * 100, 2 * 128 * 100]


def test_the_rate_is_that_of_the_largest_operand():
    some = graph(lambda x, s: (x @ x.T) * s, array(64, 8, dtype=jnp.bfloat16), array(dtype=jnp.float32))
    operands = operand_avals(some, frozenset())
    (dot,) = named(some, "dot_general")
    assert compute_dtype(some.nodes[dot], operands[dot]) == "bfloat16"
    iota = graph(lambda: jnp.arange(8.0) * 2)
    (n,) = named(iota, "iota")
    assert compute_dtype(iota.nodes[n], {}) == iota.nodes[n].avals[0].dtype


def test_a_weight_that_is_widened_on_the_way_is_read_narrow_and_once():
    """2 bytes an activation, 1 a weight; multiplied in bf16."""
    some = graph(lambda x, q: x @ q.astype(x.dtype), array(8, 16, dtype=jnp.bfloat16), array(16, 32, dtype=jnp.int8))
    (dot,), (convert,) = named(some, "dot_general"), named(some, "convert_element_type")
    mesh, held = MeshShape(("x",), (2,)), buffers(some)
    assert moved(some, dot, mesh, [WHOLE], [N]).tolist() == [
        2 * 8 * 16 + 16 * 32 + 2 * 8 * 32,
        2 * 8 * 16 + 16 * 32 / 2 + 2 * 8 * 32 / 2,
    ]
    assert moved(some, convert, mesh, [WHOLE]).tolist() == [0]
    assert compute_dtype(some.nodes[dot], operand_avals(some, held.stored, held.widened)[dot]) == "bfloat16"


@pytest.mark.parametrize("n", [2, 4, 8])
def test_half_of_a_gathered_operand_is_in_flight_and_two_sums(n):
    """Chunks of lhs [m, k], rhs [k, n] or the result [m, n], whose dim an axis of n devices has split, in bfloat16."""
    m, k, cols = 64, 128, 256
    found = graph(lambda x, w: x @ w, array(m, k, dtype=jnp.bfloat16), array(k, cols, dtype=jnp.bfloat16))
    (dot,) = (node for node in found.nodes if node.name == "dot_general")
    operands = {i: Read(found.aval(Port(p)), True) for i, p in enumerate(found.inputs)}
    strategies = enumerate_strategies(dot.rule, MeshShape(("x",), (n,)), rings=True)
    nbytes = flying_bytes(dot, operands, strategies)
    whole = {0: m * k, 1: k * cols, 2: m * cols, NO_RING: 0}
    chunks = {0: n // 2, 1: n // 2, 2: min(n - 1, 2), NO_RING: 0}
    places = strategies.rings[:, 0].tolist()
    assert set(places) == set(whole)
    assert nbytes.tolist() == [2 * whole[place] / n * chunks[place] for place in places]
