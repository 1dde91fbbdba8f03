"""Primitives that nobody can look into, and those that run only where the user already shards by hand.

A **barrier** runs whole on every device and keeps its place among the others: a kernel, a foreign call, a callback.
**Manual** ones are collectives and casts between the types of a `shard_map`: outside of one they do not occur.
"""

from math import prod

from planner.rules.labels import Shapes, Whole, labelled
from planner.rules.rule import Rule

_KERNELS = """pallas_call ffi_call custom_call buffer_callback pure_callback io_callback debug_callback debug_print
    call_exported custom_partitioning inspect_sharding check unreachable call_hi_primitive
    call_hi_primitive_linearized"""

_TOKENS = "after_all create_token"

_MUTABLE = """accum_grad_in_ref addupdate box_get box_set broadcast_to create_linear empty_ref free_ref freeze get
    log_extend log_read new_box new_log new_ref pin run_state swap unpin"""

_COLLECTIVES = """all_gather all_gather_invariant all_gather_reduced all_to_all axis_index pbroadcast pmax pmin ppermute
    precv preduced psend psum psum_invariant pvary ragged_all_to_all reduce_scatter reduced_vary_cast_p unreduced_psum
    unreduced_reduce_scatter vary_unreduced_cast_p"""

BARRIERS = frozenset((*_KERNELS.split(), *_TOKENS.split(), *_MUTABLE.split()))
MANUAL = frozenset(_COLLECTIVES.split())
UNKNOWN = 10.0
"""FLOPs for each element that an operation reads or writes of which nothing is known: no operation is free because
nobody wrote its cost."""


def replicated(in_shapes: Shapes, out_shapes: Shapes, flops: float | None = None) -> Rule:
    """The rule of an operation of which every device does all.

    Args:
        in_shapes: Shapes of the operands.
        out_shapes: Shapes of the results.
        flops: FLOPs of the operation, `UNKNOWN` for each element where nobody knows better.
    """
    shapes = [tuple(shape) for shape in (*in_shapes, *out_shapes)]
    rows = [[Whole("size", size) for size in shape] for shape in shapes]
    work = UNKNOWN * sum(map(prod, shapes)) if flops is None else flops
    return labelled(rows[: len(in_shapes)], rows[len(in_shapes) :], in_shapes, out_shapes, work=work)
