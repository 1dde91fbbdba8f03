"""Rings through tori and grids: every place once, neighbours near, and what wires carry as counted one by one."""

from collections import Counter
from itertools import pairwise
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.cost.cycle import Cycle

AXES = st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=3).map(tuple)


def walked(a, b, axes):
    """The wires of a message: their axis, where they begin, which way they go."""
    now, found = list(a), []
    for axis, (length, closes) in enumerate(axes):
        ahead = (b[axis] - a[axis]) % length
        way = 1 if (ahead <= length - ahead if closes else b[axis] > a[axis]) else -1
        while now[axis] != b[axis]:
            found.append((axis, *now, way))
            now[axis] = (now[axis] + way) % length
    return found


@given(AXES)
def test_hops_and_loads_are_those_of_the_ring(axes):
    ring, lengths = Cycle(axes), [n for n, _ in axes]
    assert sorted(ring.order) == list(range(prod(lengths)))
    places = [np.unravel_index(place, lengths) for place in ring.order]
    ahead = list(pairwise([*places, places[0]])) if len(places) > 1 else []
    sent = ahead if len(places) == 2 else [*ahead, *((b, a) for a, b in ahead)]
    walks = [walked(a, b, axes) for a, b in sent]
    hops = max(map(len, walks), default=ring.hops)
    carried = Counter(wire for walk in walks for wire in walk)
    loads = tuple(max((n for wire, n in carried.items() if wire[0] == a), default=1) for a in range(len(axes)))
    long = [n for n in lengths if n > 1]
    if len(long) < 2 or any(n % 2 == 0 for n in long):
        assert hops == ring.hops and all(a <= b for a, b in zip(loads, ring.loads))
        assert max(loads) == max(b for b, n in zip(ring.loads, lengths) if n > 1 or not long)
    else:
        assert hops <= ring.hops and all(a <= b for a, b in zip(loads, ring.loads))


@pytest.mark.parametrize(
    ("axes", "order", "hops", "loads"),
    [
        (((8, False),), (0, 2, 4, 6, 7, 5, 3, 1), 2, (2,)),
        (((4, True),), (0, 1, 2, 3), 1, (1,)),
        (((2, False),), (0, 1), 1, (1,)),
        (((2, False), (3, False)), (0, 1, 2, 5, 4, 3), 1, (1, 1)),
        (((2, True), (4, True)), (0, 1, 2, 3, 7, 6, 5, 4), 1, (1, 1)),
    ],
    ids=str,
)
def test_a_row_is_walked_by_every_other_place_and_a_plane_like_a_meadow(axes, order, hops, loads):
    ring = Cycle(axes)
    assert (ring.order, ring.hops, ring.loads) == (order, hops, loads)
