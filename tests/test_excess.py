from dataclasses import replace

import numpy as np
import pytest
from problems import brute, tiny, transformer

from planner.solve import ready, solve
from planner.solve.excess import least_excess
from planner.solve.free import Effort
from planner.solve.limited import WINDOWS


@pytest.mark.parametrize("block", range(3))
def test_what_is_proven_short_never_exceeds_the_least(block):
    for seed in range(30 * block, 30 * block + 30):
        problem = tiny(seed, memory=True, tightness=0.0)
        problem = replace(problem, limit=problem.limit - 1 - seed % 3)
        excess, _ = brute(problem)
        if not np.isfinite(excess):
            continue
        made = ready(problem)
        quick, short = least_excess(made.left({}), made.memory, (), Effort(), ())
        assert short <= excess * (1 + 1e-9) <= quick.seconds + 1e-6, seed
        least, short = least_excess(made.left({}), made.memory, (), Effort())
        assert short <= excess * (1 + 1e-9) and np.isclose(least.seconds, excess), seed


def test_least_excess_of_a_layered_graph_is_proven():
    """What a limit forbids shows that the thriftiest choice is; at a glance it is known roughly."""
    made = ready(replace(transformer(2), limit=1.0))
    for windows, share in ((WINDOWS, 0.98), ((), 0.8)):
        least, short = least_excess(made.left({}), made.memory, (), Effort(), windows)
        assert share * least.seconds <= short <= least.seconds


def test_the_thrifty_start_makes_known_layouts_that_do_not_fit_no_worse():
    problem = replace(transformer(2), limit=1.0)
    none = solve(problem)
    again = solve(problem, starts=[none.choice])
    assert again.status == "infeasible" and again.excess <= none.excess
    assert 0 < again.short <= again.excess
