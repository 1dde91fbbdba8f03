import itertools
import random

import numpy as np
import pytest
from graphs import abstract_mesh, model, shape_of

from passes.way import Shard
from planner.permutes import Permutes, moves

NAMES = ("x", "y", "z")


def shards(dims, count, seed):
    """Places with the axes of a mesh in any dims, in any order, some of them open."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        places, opened = [[] for _ in range(dims)], set()
        for name in rng.sample(NAMES, 3):
            at = rng.randrange(-2, dims)
            if at >= 0:
                places[at].append(name)
            elif at == -2:
                opened.add(name)
        found[Shard(tuple(map(tuple, places)), frozenset(opened))] = None
    return list(found)


@pytest.mark.parametrize("dims", [1, 2, 4])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 3, 4)])
def test_a_table_has_what_each_way_takes_by_itself(sizes, dims):
    mesh = abstract_mesh(*sizes)
    prices = Permutes(shape_of(mesh), model(mesh))
    have, want = shards(dims, 16 * dims, 0), shards(dims, 16 * dims, 1)
    table = prices.table(have, want, 1e6)
    apart = [[sum(p.seconds for p in prices.between(a, b, 1e6)) for b in want] for a in have]
    np.testing.assert_allclose(table, apart, rtol=1e-12)
    assert (table > 0).any() and (table == 0).any()


def test_permutes_are_those_among_the_moves():
    mesh = shape_of(abstract_mesh(2, 3, 4))
    prices = Permutes(mesh, model(abstract_mesh(2, 3, 4)))
    for a, b in itertools.product(shards(3, 40, 2), shards(3, 40, 3)):
        found = [(mesh.axes(p.mask), p.nbytes) for p in prices.between(a, b, 720.0)]
        listed = [(axes, 720 / parts) for kind, axes, parts in moves(a, b, mesh) if kind == "permute"]
        assert [axes for axes, _ in found] == [tuple(sorted(axes)) for axes, _ in listed]
        np.testing.assert_allclose([n for _, n in found], [n for _, n in listed])
