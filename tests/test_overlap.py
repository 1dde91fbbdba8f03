"""Rings in steps, from def-use alone: no product waits for a permute, and none is left when the last product ends.

Products run one after the other, permutes beside them, each as long as a product. Read are the StableHLO that is
lowered for GPUs, in which what barriers tie counts as needed, and the HLO that is compiled for the CPU. There barriers
are gone: a device's own product, which should hide the last permute of a sum, may come first.
"""

import functools
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import programs
import pytest
from jax import P, lax

from passes import all_gather_matmul, all_gather_matmuls, matmul_reduce_scatter
from planner.audit.hlo import Module, read

MATMUL = (((1,), (0,)), ((), ()))


class Op(NamedTuple):
    kind: str
    results: Sequence[Hashable]
    operands: Sequence[Hashable]


def lowered_for_gpus(fun, args) -> Iterator[Op]:
    """The operations of the body of a shard_map."""
    module = fun.trace(*args).lower(lowering_platforms=("cuda",)).compiler_ir("stablehlo")
    (main,) = [f for f in module.body.operations if "sym_name" in f.attributes and str(f.sym_name) == '"main"']
    (mapped,) = [op for op in main.regions[0].blocks[0] if op.operation.name == "sdy.manual_computation"]
    kinds = {"stablehlo.dot_general": "product", "stablehlo.collective_permute": "permute"}
    for op in mapped.regions[0].blocks[0]:
        yield Op(kinds.get(op.operation.name, ""), list(op.operation.results), list(op.operation.operands))


def compiled_for_the_cpu(fun, args) -> Iterator[Op]:
    module = read(fun.lower(*args).compile())
    kinds = {"collective-permute": "permute"}
    for i in module.main.instructions:
        yield Op("product" if multiplies(module, i) else kinds.get(i.opcode, ""), [i.name], i.operands)


def multiplies(module: Module, i) -> bool:
    called = [inner for name in i.calls for inner in module.computations[name].instructions]
    return i.opcode == "dot" or any(multiplies(module, inner) for inner in called)


def timed(ops: Sequence[Op]) -> tuple[list[int], int]:
    """When each product starts, and when all is done, in steps."""
    ready: dict[Hashable, int] = {}
    starts, free = [], 0
    for op in ops:
        at = max((ready.get(x, 0) for x in op.operands), default=0)
        if op.kind == "product":
            at = max(at, free)
            starts.append(at)
            free = at + 1
        ready.update(dict.fromkeys(op.results, at + bool(op.kind)))
    return starts, max(ready.values())


RINGS = {
    "gather kept": (all_gather_matmul, {"gather_dim": 0}, (P("x"), P())),
    "gather contracted": (all_gather_matmul, {"gather_dim": 1}, (P(None, "x"), P())),
    "gather weights": (all_gather_matmul, {"gather_dim": 1, "operand": 1}, (P(), P(None, "x"))),
    "scatter rows": (matmul_reduce_scatter, {"scatter_dim": 0}, (P(None, "x"), P("x"))),
    "scatter columns": (matmul_reduce_scatter, {"scatter_dim": 1}, (P(None, "x"), P("x"))),
    "scatter columns in turn": (matmul_reduce_scatter, {"scatter_dim": 1, "in_turn": True}, (P(None, "x"), P("x"))),
}


def mapped(local, n, specs, out):
    mesh = programs.mesh(n)
    shapes = [jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=jax.NamedSharding(mesh, spec)) for spec in specs]
    return jax.jit(jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)), shapes


@pytest.mark.parametrize("ops", [lowered_for_gpus, compiled_for_the_cpu])
@pytest.mark.parametrize("n", [2, 4, 8])
@pytest.mark.parametrize("ring", RINGS)
def test_no_product_waits_for_a_permute(ring, n, ops):
    matmul, where, specs = RINGS[ring]
    local = functools.partial(matmul, dimension_numbers=MATMUL, axis_name="x", **where)
    out = P(*(None,) * where.get("scatter_dim", 0), "x") if "scatter_dim" in where else P()
    found = list(ops(*mapped(local, n, specs, out)))
    assert sum(op.kind == "permute" for op in found) == n - 1
    starts, end = timed(found)
    assert starts == list(range(n))
    assert n <= end <= n + (ops is compiled_for_the_cpu and "scatter" in ring)


@pytest.mark.parametrize("ops", [lowered_for_gpus, compiled_for_the_cpu])
def test_products_share_a_gather(ops):
    def local(x, gate, up):
        return all_gather_matmuls(x, [gate, up], MATMUL, axis_name="x", gather_dim=0)

    found = list(ops(*mapped(local, 8, (P("x"), P(), P()), P())))
    assert sum(op.kind == "permute" for op in found) == 7
    assert timed(found) == (list(range(16)), 16)


def sent(x, n):
    return lax.ppermute(x, "x", [(i, (i + 1) % n) for i in range(n)])


def first_sent_then_multiplied(x, w, n=8):
    total = jnp.zeros((8, 64))
    for _ in range(n):
        x = sent(x, n)
        total += x @ w
    return total


def each_sum_held_up(x, w, n=8):
    total = x[:, :8] @ w[:8]
    for _ in range(1, n):
        total = sent(total, n)
        total = lax.dot(total[:, :8], w[:8]) + total
    return total


@pytest.mark.parametrize("ops", [lowered_for_gpus, compiled_for_the_cpu])
@pytest.mark.parametrize("local, done", [(first_sent_then_multiplied, 9), (each_sum_held_up, 15)])
def test_careless_loops_wait(local, done, ops):
    starts, end = timed(list(ops(*mapped(local, 8, (P("x"), P()), P("x")))))
    assert starts != list(range(8))
    assert end == done
