import numpy as np
import pytest
from problems import brute, tiny, transformer

from planner.solve import Problem, evaluate, peak, ready, rivals, solve


def masks(problem, seed):
    """Random parts: some strategies of some nodes, now and then none of one."""
    rng = np.random.default_rng(seed)
    nodes = rng.permutation(len(problem.cost))[: rng.integers(0, len(problem.cost) + 1)].tolist()
    return {n: rng.random(len(problem.cost[n])) < 0.7 for n in nodes}


def restricted(problem, part):
    cost = [np.where(part[n], c, np.inf) if n in part else c for n, c in enumerate(problem.cost)]
    return Problem(tuple(cost), problem.edges, problem.usage, problem.live, problem.limit)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("block", range(3))
def test_each_part_is_solved_as_if_alone(block, memory):
    """Within the hundredth that rivals are given, with bounds that hold for their own part."""
    for seed in range(30 * block, 30 * block + 30):
        problem = tiny(seed, memory=memory)
        parts = [masks(problem, 7 * seed + i) for i in range(4)]
        for part, solution in zip(parts, rivals(ready(problem), parts), strict=True):
            excess, seconds = brute(restricted(problem, part))
            if not np.isfinite(excess):
                assert solution.status == "infeasible" and np.isinf(solution.seconds), seed
                continue
            assert all(mask[solution.choice[n]] for n, mask in part.items()), seed
            assert solution.seconds == evaluate(problem, solution.choice)
            if excess > 0:
                assert (
                    solution.status == "infeasible" and solution.short <= excess * (1 + 1e-9) <= solution.excess + 1e-6
                )
                continue
            assert solution.bound <= seconds + 1e-9, seed
            if solution.status == "infeasible":  # nothing found is no proof
                assert solution.short == 0
            else:
                assert peak(problem, solution.choice) <= problem.limit
                assert seconds - 1e-9 <= solution.seconds, seed


def test_most_parts_are_found_and_close():
    gaps = []
    for seed in range(60):
        problem = tiny(seed, memory=True)
        part = masks(problem, seed)
        if brute(restricted(problem, part))[0] == 0:
            (solution,) = rivals(ready(problem), [part])
            gaps.append(solution.gap if solution.status != "infeasible" else 1.0)
    assert len(gaps) > 15 and np.mean(np.array(gaps) <= 0.01) > 0.9


def test_the_whole_is_a_part():
    problem = transformer(1)
    (solution,) = rivals(ready(problem), [{}])
    assert solution.seconds <= solve(problem).seconds * 1.01


def test_impossible_problems_have_impossible_parts():
    problem = Problem((np.array([np.inf]),), (), (np.zeros(1),))
    (solution,) = rivals(ready(problem), [{}])
    assert solution.status == "infeasible" and np.isinf(solution.excess)


def test_what_is_ready_is_solved_as_it_is_and_stays_ready():
    problem = tiny(4, memory=True, infinite=0.0)
    made = ready(problem)
    first = solve(made)
    list(rivals(made, [masks(problem, i) for i in range(3)]))
    assert solve(made) == first == solve(problem)
