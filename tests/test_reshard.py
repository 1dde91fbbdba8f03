"""Every planned reshard runs on eight devices, step by step, and arrives where it should."""

import dataclasses
from collections import defaultdict
from itertools import product

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import PartitionSpec as P
from programs import mesh

from planner.reshard import reshard
from planner.sharding import MeshShape

AXES = "xyz"
CUBE = MeshShape(tuple(AXES), (2, 2, 2))
SHAPE = (8, 16)
OPEN, NOWHERE = 2, 3
EVERY = [dict(zip(AXES, places)) for places in product(range(4), repeat=3)]
"""For each mesh axis the dim that it splits, OPEN or NOWHERE."""


def follows(have, want):
    """Whether `want` is reached from `have` by dropping minor axes and adding new ones as the minor-most."""
    kept = [axis for axis in have if axis in want]
    return list(have[: len(kept)]) == kept == list(want[: len(kept)])


def row(layout):
    return [sum(1 << AXES.index(a) for a, at in layout.items() if at == place) for place in (0, 1, OPEN)]


def rows(some):
    return np.array([row(layout) for layout in some])


STEPS = ("reduce_scatter", "all_to_all", "all_reduce", "all_gather")
ALL = reshard(rows(EVERY), rows(EVERY), float(np.prod(SHAPE)), CUBE)


def turns(kind, i, j, found=ALL):
    """The moves of one kind between two layouts, as pairs of mask and elements."""
    moves = [(int(m.masks[i, j]), float(m.elements[i, j])) for m in found.moves if m.kind == kind]
    return [(mask, elements) for mask, elements in moves if mask]


class Moves:
    """Which axis moves how, and the order of axes in each dim before and after."""

    def __init__(self, source, target):
        pairs = {a: (source[a], target[a]) for a in AXES}
        self.scatter = {a: q for a, (p, q) in pairs.items() if p == OPEN and q < OPEN}
        self.exchange = {a: (p, q) for a, (p, q) in pairs.items() if p < OPEN and q < OPEN and p != q}
        self.reduce = [a for a, (p, q) in pairs.items() if p == OPEN and q == NOWHERE]
        self.gather = {a: p for a, (p, q) in pairs.items() if p < OPEN and q == NOWHERE}
        leaving = {*self.gather.values(), *(p for p, _ in self.exchange.values())}
        slices = {a: q for a, (p, q) in pairs.items() if p == NOWHERE and q < OPEN}
        self.early = {a: q for a, q in slices.items() if q not in leaving}
        self.late = {a: q for a, q in slices.items() if q in leaving}
        arriving = {*self.scatter.values(), *(q for _, q in self.exchange.values())}
        self.direct = not leaving & arriving
        came = {a: q for a, (_, q) in reversed(self.exchange.items())}
        kept = {a: p for a, (p, q) in pairs.items() if p == q < OPEN}
        gone = {a: p for a, (p, _) in self.exchange.items()}
        self.before = self.orders(kept, self.gather, gone)
        self.after = self.orders(kept, self.early, self.scatter, came, self.late)

    def orders(self, *groups):
        return [[a for group in groups for a, at in group.items() if at == d] for d in (0, 1)]


def run(moves, x):
    """The steps in the order that `planner.reshard` states, on one device."""
    for a, d in moves.early.items():
        x = cut(x, a, d)
    for a, d in moves.scatter.items():
        x = lax.psum_scatter(x, a, scatter_dimension=d, tiled=True)
    for a, (p, q) in reversed(moves.exchange.items()):
        x = lax.all_to_all(x, a, split_axis=q, concat_axis=p, tiled=True)
    for a in moves.reduce:
        x = lax.psum(x, a)
    for a, d in reversed(moves.gather.items()):
        x = lax.all_gather(x, a, axis=d, tiled=True)
    for a, d in moves.late.items():
        x = cut(x, a, d)
    return x


def cut(x, axis, dim):
    size = x.shape[dim] // 2
    return lax.dynamic_slice_in_dim(x, lax.axis_index(axis) * size, size, dim)


def block(whole, orders, at):
    """The part of `whole` that the device at mesh position `at` holds."""
    for dim, axes in enumerate(orders):
        for a in axes:
            whole = np.split(whole, 2, dim)[at[AXES.index(a)]]
    return whole


def summands(whole, opened):
    """Arrays [2, 2, 2, …], one for each device, that sum to `whole` over the open axes and repeat along the others."""
    noise = np.random.default_rng(0).integers(-9, 9, (2, 2, 2, *whole.shape)).astype(np.float32)
    for i, a in enumerate(AXES):
        if a not in opened:
            noise = np.repeat(np.take(noise, [0], i), 2, i)
    axes = tuple(i for i, a in enumerate(AXES) if a in opened)
    first = tuple(slice(0, 1) if a in opened else slice(None) for a in AXES)
    noise[first] += whole - noise.sum(axes, keepdims=True)
    return noise


def on_devices(fun, blocks):
    """`fun` of each device's block, as an array [2, 2, 2, …]."""
    body = jax.shard_map(
        lambda x: fun(x[0, 0, 0])[None, None, None],
        mesh=mesh(2, 2, 2),
        in_specs=P(*AXES),
        out_specs=P(*AXES),
        check_vma=False,
    )
    return jax.jit(body), blocks


def volumes(fun, blocks):
    """For each kind of collective the most elements that a device holds, and the axes, read off the traced program."""
    most, axes = defaultdict(float), defaultdict(int)
    (body,) = jax.make_jaxpr(fun)(blocks).jaxpr.eqns
    inner = body.params["jaxpr"]
    (body,) = [e for e in getattr(inner, "jaxpr", inner).eqns if e.primitive.name == "shard_map"]
    for eqn in body.params["jaxpr"].eqns:
        name = {"psum": "all_reduce", "psum_invariant": "all_reduce"}.get(eqn.primitive.name, eqn.primitive.name)
        if name in STEPS:
            sizes = [v.aval.size for v in (*eqn.invars, *eqn.outvars)]
            most[name] = max(most[name], *sizes)
            over = eqn.params.get("axes", eqn.params.get("axis_name"))
            axes[name] |= CUBE.mask(over if isinstance(over, tuple) else (over,))
    return most, axes


PAIRS = [(i, j) for i, j in zip(*map(np.ndarray.tolist, np.nonzero(ALL.possible)))]
DIRECT = [(i, j) for i, j in PAIRS if Moves(EVERY[i], EVERY[j]).direct]


def test_most_pairs_need_no_detour():
    """A detour: one axis leaves a dim while another comes there by a collective."""
    assert len(DIRECT) > 0.75 * len(PAIRS)


@settings(max_examples=80)
@given(st.sampled_from(DIRECT))
def test_the_steps_arrive_and_move_what_they_say(pair):
    i, j = pair
    source, target = EVERY[i], EVERY[j]
    moves = Moves(source, target)
    assert all(follows(a, b) for a, b in zip(moves.before, moves.after))
    whole = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    parts = summands(whole, [a for a in AXES if source[a] == OPEN])
    blocks = np.array([block(parts[at], moves.before, at) for at in np.ndindex(2, 2, 2)])
    fun, blocks = on_devices(lambda x: run(moves, x), blocks.reshape(2, 2, 2, *blocks.shape[1:]))

    open_still = tuple(k for k, a in enumerate(AXES) if target[a] == OPEN)
    moved = np.asarray(fun(blocks)).sum(open_still, keepdims=True)
    for at in np.ndindex(moved.shape[:3]):
        np.testing.assert_array_equal(moved[at], block(whole, moves.after, at))

    assert ALL.early[i, j] == (blocks[0, 0, 0].size / 2 ** len(moves.early) if moves.early else 0)
    most, axes = volumes(fun, blocks)
    for step in STEPS:
        assert axes[step] == sum(mask for mask, _ in turns(step, i, j))
        assert most[step] == max((elements for _, elements in turns(step, i, j)), default=0.0)


def test_impossible_is_exactly_what_goes_to_an_open_sum_from_elsewhere():
    opens = np.array([[any(t[a] == OPEN != s[a] for a in AXES) for t in EVERY] for s in EVERY])
    assert (ALL.possible == ~opens).all()


def test_staying_costs_nothing_and_so_does_slicing():
    for i, source in enumerate(EVERY):
        for j, target in enumerate(EVERY):
            sliced = all(s in (t, NOWHERE) for s, t in zip(source.values(), target.values()))
            if sliced and ALL.possible[i, j]:
                assert not ALL.moving[i, j]


def test_every_axis_that_leaves_its_place_moves_once():
    for i, source in enumerate(EVERY):
        for j, target in enumerate(EVERY):
            moving = CUBE.mask(a for a in AXES if source[a] not in (target[a], NOWHERE))
            masks = [mask for step in STEPS for mask, _ in turns(step, i, j)]
            if ALL.possible[i, j]:
                assert sum(masks) == moving


@pytest.mark.parametrize("direct", [True, False])
def test_no_reshard_moves_less_than_it_must(direct):
    """What devices receive is on average what they lack, or more: also where an axis leaves a dim to another."""
    for i, source in enumerate(EVERY):
        for j, target in enumerate(EVERY):
            moves = Moves(source, target)
            if not ALL.possible[i, j] or moves.direct != direct:
                continue
            got = sum(received(step, i, j) for step in STEPS)
            assert got >= lacking(moves) - 1e-9, (source, target)


def received(step, i, j):
    twice = 2 if step == "all_reduce" else 1
    return sum(elements * (1 - 1 / CUBE.size[mask]) * twice for mask, elements in turns(step, i, j))


def lacking(moves):
    """Elements of its target that a device does not hold, or holds as a summand only; the mean over devices."""
    index = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    closes = bool(moves.scatter or moves.reduce)
    found = []
    for at in np.ndindex(2, 2, 2):
        wanted = block(index, moves.after, at).ravel()
        held = [] if closes else block(index, moves.before, at).ravel()
        found.append(len(np.setdiff1d(wanted, held)))
    return float(np.mean(found))


def test_elements_scale_with_the_array():
    twice = reshard(rows(EVERY), rows(EVERY), 2.0 * np.prod(SHAPE), CUBE)
    for one, two in zip(ALL.moves, twice.moves, strict=True):
        np.testing.assert_array_equal(two.elements, 2 * one.elements)


def test_a_scalar_can_only_be_summed():
    both = np.array([[0], [1]])
    found = reshard(both, both, 1.0, CUBE)
    (reduced,) = found.moves
    assert reduced.kind == "all_reduce" and reduced.masks.tolist() == [[0, 0], [1, 0]]
    assert found.possible.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("walks", "scatters", "gathers"),
    [
        ((), [("xyz", 1)], [("xyz", 1)]),
        (((2,), (2,), (2,)), [("xy", 1), ("z", 4)], [("z", 4), ("xy", 1)]),
        (((2,), (4,), (2,)), [("xy", 1), ("z", 4)], [("z", 4), ("xy", 1)]),
        (((2, 2), (2,), (2,)), [("x", 1), ("yz", 2)], [("yz", 2), ("x", 1)]),
    ],
    ids=["no torus", "cube", "box", "three of four"],
)
def test_a_torus_is_scattered_and_gathered_in_turns(walks, scatters, gathers):
    """Each with the part of the array that is there before a scatter and after a gather."""
    lines = iter(range(4))
    closing = tuple(tuple((next(lines), n, True) for n in walk) for walk in walks)
    mesh = MeshShape(tuple(AXES), (2, 2, 2), closing, in_planes=True)
    layouts = rows([dict.fromkeys(AXES, OPEN), dict.fromkeys(AXES, 0), dict.fromkeys(AXES, NOWHERE)])
    found = reshard(layouts, layouts, 64.0, mesh)

    def expected(parts):
        return [(CUBE.mask(axes), 64.0 / part) for axes, part in parts]

    assert turns("reduce_scatter", 0, 1, found) == expected(scatters)
    assert turns("all_gather", 1, 2, found) == expected(gathers)


@pytest.mark.parametrize("at_once, expected", [(False, [(1, 32.0), (2, 64.0)]), (True, [(3, 64.0)])])
def test_two_dims_are_gathered_in_turns(at_once, expected):
    """But not where the paper counts."""
    mesh = dataclasses.replace(CUBE, at_once=at_once)
    found = reshard(rows([{"x": 0, "y": 1, "z": NOWHERE}]), rows([dict.fromkeys(AXES, NOWHERE)]), 64.0, mesh)
    assert turns("all_gather", 0, 0, found) == expected
