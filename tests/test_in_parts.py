"""Matmuls that scatter their result along its last dim themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from programs import mesh

from passes import jaxpr
from passes.in_parts import COPIED, LARGE, SMALL, after, cut_operand, in_parts, leading_scatters, least, pays
from passes.way import Shard

MESH = mesh(2, 4)
SIZES = dict(MESH.shape)
POINTS = {"b": 2, "m": 8, "l": 3, "n": 2048, "k": 16}
TORUS = {"x": ((0, 2),), "y": ((1, 4),)}
SCATTERS = [[("x",)], [("y",)], [("x", "y")], [("y", "x")], [("x",), ("y",)], [("y",), ("x",)]]


def whole_numbers(dims):
    shape = [POINTS[d] for d in dims]
    return np.random.default_rng(len(dims)).integers(-2, 3, shape).astype(np.float32)


@pytest.mark.parametrize("scatters", SCATTERS, ids=str)
@pytest.mark.parametrize(
    "terms", ["mk,kn->mn", "km,nk->mn", "lmk,kn->lmn", "bmk,bkn->bmn", "mk,kln->mln", "mkn,k->mn", "bmnk,bk->bmn"]
)
def test_parts_are_the_scattered_product(terms, scatters):
    """The contracted dim is split over the axes, the last dim of the result scattered over them, in their order."""
    dims, result = terms.split("->")
    names = dims.split(",")
    operands = [whole_numbers(n) for n in names]
    axes = tuple(axis for part in scatters for axis in part)
    (eqn,) = (
        eqn
        for _, eqn in jaxpr.walk(jax.make_jaxpr(lambda *xs: jnp.einsum(terms, *xs))(*operands))
        if jaxpr.primitive_name(eqn) == "dot_general"
    )
    run = in_parts(eqn, eqn.params, scatters, SIZES, "here")
    split = [P(*(("x", "y") if d == "k" else None for d in n)) for n in names]
    out = P(*[None] * (len(result) - 1), axes)
    if set(axes) != {"x", "y"}:
        split = [P(*(axes if d == "k" else None for d in n)) for n in names]
    mapped = jax.shard_map(run, mesh=MESH, in_specs=tuple(split), out_specs=out, check_vma=False)
    np.testing.assert_array_equal(jax.jit(mapped)(*operands), np.einsum(terms, *operands))


def test_the_way_says_which_scatters_lead():
    have = Shard(((), ("z",)), frozenset("xy"))
    assert leading_scatters(have, Shard(((), ("z", "x", "y"))), TORUS) == [("x", "y")]
    assert leading_scatters(have, Shard(((), ("z", "x", "y"))), {"x": ((0, 4),), "y": ((1, 4),)}) == [("x",), ("y",)]
    assert leading_scatters(have, Shard((("x",), ("z", "y"))), TORUS) == []
    assert leading_scatters(Shard(((), ()), frozenset("x"), "max"), Shard(((), ("x",))), TORUS) == []
    assert after(have, [("x",)]) == Shard(((), ("z", "x")), frozenset("y"))


@pytest.mark.parametrize(
    ("shape", "whole"),
    [
        ((1 << 14, 1024), True),
        ((1 << 14, 896), False),
        ((1 << 12, 1024), False),
        ((1 << 12, 4, 1024), False),
        ((1 << 24,), False),
    ],
    ids=["large", "half a tile", "small", "few rows", "one dim"],
)
def test_large_results_of_whole_tiles_are_cut(shape, whole):
    assert pays(shape, 4, [("x",), ("y",)], SIZES) == whole


@pytest.mark.parametrize(
    ("kind", "copied", "expected"),
    [
        ("TPU v4", 0, SMALL),
        ("TPU v5", SMALL, COPIED * SMALL),
        ("TPU v4", LARGE, LARGE),
        ("TPU v5 lite", 0, LARGE),
        ("", SMALL, LARGE),
    ],
)
def test_what_copies_slowly_computes_smaller_results_in_parts_unless_a_weight_is_copied_for_it(kind, copied, expected):
    assert least(kind, copied) == expected
    assert pays((expected // 4096, 1024), 4, [("x",)], SIZES, least(kind, copied))
    assert not pays((expected // 4096 - 8, 1024), 4, [("x",)], SIZES, least(kind, copied))


@pytest.mark.parametrize(("terms", "operand"), [("mk,kn->mn", 1), ("nk,mk->nm", 1), ("mnk,k->mn", 0)])
def test_the_operand_with_the_last_dim_is_cut(terms, operand):
    shapes = [[POINTS[d] for d in dims] for dims in terms.split("->")[0].split(",")]
    args = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    found = (eqn for _, eqn in jaxpr.walk(jax.make_jaxpr(lambda *xs: jnp.einsum(terms, *xs))(*args)))
    assert cut_operand(next(e for e in found if jaxpr.primitive_name(e) == "dot_general")) == operand
