from dataclasses import replace

import numpy as np
import pytest
from problems import brute, choices, tiny, transformer

from planner.solve import evaluate, peak, solve
from planner.solve.free import Best, Effort
from planner.solve.memory import Memory
from planner.solve.neighbours import Around, held_but, wander
from planner.solve.network import network
from planner.solve.prices import Labour, Pricing


def pricing_of(problem, start):
    memory = Memory(problem)
    best = Best(memory.scoring.within)
    best.offer(start)
    pricing = Pricing(network(problem, memory), memory, best, memory.scoring.seconds, Labour(1e9))
    pricing.add(start)
    return pricing


def worst(problem):
    """The dearest choice that fits."""
    fitting = [c for c in choices(problem) if np.isfinite(evaluate(problem, c)) and peak(problem, c) <= problem.limit]
    return max(fitting, key=lambda c: evaluate(problem, c), default=None)


@pytest.mark.parametrize("block", range(3))
def test_from_the_worst_choice_to_the_best_one(block):
    """A neighbourhood of a tiny problem is all of it."""
    seen = 0
    for seed in range(25 * block, 25 * block + 25):
        problem = tiny(seed, memory=True)
        if (start := worst(problem)) is None:
            continue
        pricing = pricing_of(problem, tuple(start))
        if not pricing.net.loaded():
            continue
        wander(pricing, -np.inf, Effort())
        assert pricing.best.seconds == pytest.approx(brute(problem)[1], abs=1e-9), seed
        assert peak(problem, pricing.best.choice) <= problem.limit
        seen += 1
    assert seen > 5


@pytest.fixture(scope="module")
def tight():
    problem = transformer(2)
    free = solve(problem)
    thrifty = solve(replace(problem, limit=1.0))
    limit = 0.5 * (peak(problem, free.choice) + peak(problem, thrifty.choice))
    return replace(problem, limit=limit), thrifty.choice


def test_a_layered_graph_gets_better_and_never_breaks_its_limit(tight):
    problem, start = tight
    pricing = pricing_of(problem, start)
    before, optimum = pricing.best.seconds, solve(problem).seconds
    wander(pricing, -np.inf, Effort(nodes=30))
    assert optimum * (1 - 1e-9) <= pricing.best.seconds < before
    assert pricing.best.seconds <= 1.1 * optimum
    assert peak(problem, pricing.best.choice) <= problem.limit


def test_the_same_way_every_time(tight):
    problem, start = tight
    ways = []
    for _ in range(2):
        pricing, events = pricing_of(problem, start), []
        wander(replace(pricing, report=lambda *event, to=events: to.append(event)), -np.inf, Effort(nodes=30))
        ways.append((events, pricing.best.choice))
    assert ways[0] == ways[1]


def test_a_bound_that_proves_the_start_ends_it(tight):
    problem, start = tight
    pricing, seen = pricing_of(problem, start), []
    wander(replace(pricing, report=lambda *event: seen.append(event)), pricing.best.seconds, Effort())
    assert not seen and pricing.best.choice == tuple(start)


def test_what_is_held_takes_what_it_took(tight):
    problem, start = tight
    net = network(problem, Memory(problem))
    free = {0, 5, 7}
    held = held_but(net, tuple(start), free)
    for n, left in held.strategies.items():
        kept = [s for s in net.strategies[n] if s == start[n]]
        assert left.tolist() == (net.strategies[n].tolist() if n in free else kept)


@pytest.mark.parametrize("size", [1, 12, 60, 10_000])
def test_neighbourhoods_have_the_size_that_is_asked_for_and_hang_together(tight, size):
    problem, _ = tight
    net = network(problem, Memory(problem))
    around = Around(net)
    for _ in range(20):
        found = around.pick(size)
        assert 1 <= len(found) <= max(size, 1) and found <= set(net.unary)
    again = Around(net)
    assert [again.pick(size) for _ in range(5)] == [Around(net).pick(size), *_picks(net, size, 5)[1:]]


def _picks(net, size, count):
    around = Around(net)
    return [around.pick(size) for _ in range(count)]


def test_nothing_left_to_choose_is_no_neighbourhood():
    problem = tiny(4, memory=True, infinite=0.0, tightness=1.0)
    start = worst(problem)
    assert start is not None
    pricing = pricing_of(problem, tuple(start))
    for n in list(pricing.net.unary):
        pricing.net.restrict(n, pricing.net.strategies[n] == start[n])
    wander(pricing, -np.inf, Effort())
    assert pricing.best.choice == tuple(start)
