"""The contest's format, and its own rule for what an answer costs, which shares nothing with ours."""

import gzip
import itertools
import json

import numpy as np
import pytest

from benchmarks import iopddl
from planner.solve import evaluate, peak, solve

NODES = {
    "intervals": [[0, 3], [1, 4], [0, 0], [2, 5]],
    "costs": [[5, 1, 7], [2, 3], [0, 4], [1, 1, 6]],
    "usages": [[1, 9, 0], [4, 2], [50, 60], [3, 8, 1]],
}
INFINITE = 10**18
EDGES = {
    "nodes": [[0, 1], [1, 0], [1, 2], [2, 3], [3, 3]],
    "costs": [
        [0, 7, INFINITE, 0, 2, 1],
        [1, 0, 3, 0, 5, 0],
        [0, INFINITE, INFINITE, 0],
        [3, 0, 2, 0, 1, 0],
        [4, 99, 99, 99, 0, 99, 99, 99, 2],
    ],
}


def content(limit=12, **changes):
    return {"problem": {"name": "small", "nodes": NODES | changes, "edges": EDGES, "usage_limit": limit}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.json"
    path.write_text(json.dumps(content()))
    return path


def every(instance):
    return itertools.product(*(range(len(cost)) for cost in instance.costs))


def test_our_numbers_are_the_contests(file):
    """Parallel edges in both directions, an edge from a node to itself, infinities, nodes that hold nothing."""
    instance = iopddl.load(file)
    problem = iopddl.problem_of(instance)
    fits = 0
    for choice in every(instance):
        cost, seconds = iopddl.cost_of(instance, choice), evaluate(problem, choice)
        ours = seconds if np.isfinite(seconds) and peak(problem, choice) <= problem.limit else None
        assert cost == ours, choice
        fits += cost is not None
    assert 0 < fits < 36


def test_the_answer_is_the_best_by_the_contests_rule(file):
    instance = iopddl.load(file)
    costs = [cost for choice in every(instance) if (cost := iopddl.cost_of(instance, choice)) is not None]
    solution = solve(iopddl.problem_of(instance))
    assert iopddl.cost_of(instance, solution.choice) == min(costs) == round(solution.seconds)


def test_by_hand():
    instance = iopddl.Instance("hand", [[3, 4]], [[5, 6]], [[0, 1]], [], [], 5)
    assert iopddl.cost_of(instance, [0]) == 3 and iopddl.cost_of(instance, [1]) is None


@pytest.mark.parametrize("file_name", ["B.json.gz", "B.2_layer.json.gz", "asplos-2025-iopddl-B.json.gz"])
def test_gzipped_files_are_read_and_printed_with_what_is_known(tmp_path, file_name):
    path = tmp_path / file_name
    with gzip.open(path, "wt") as file:
        json.dump(content(), file)
    ((name, objective, bound, gap, _, best, xla),) = iopddl.rows([path], 1.0)
    assert (name, best, xla) == ("B", "532,843", "990,205")
    assert objective == bound and gap == "0.0e+00"


def test_what_fits_nowhere_is_said(tmp_path):
    path = tmp_path / "none.json"
    path.write_text(json.dumps(content(limit=0)))
    ((name, objective, *_),) = iopddl.rows([path], 1.0)
    assert (name, objective) == ("none", "nothing fits")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not an instance"),
        ("{}", "nodes.costs"),
        ("[1, 2]", "not an instance"),
        (json.dumps(content(usages=[[1, 9, 0]])), "4 costs, 1 usages"),
        (json.dumps(content(usages=[[1], [4, 2], [5, 6], [3, 8, 1]])), "node 0 has 3 costs, 1 usages"),
        (json.dumps(content(costs=[[5, 1], [2, 3], [0, 4], [1, 1, 6]])), "node 0 has 2 costs, 3 usages"),
        (json.dumps(content(costs=[[5, 1, 7], [2, 3], [0, 4], []])), "node 3 has 0 costs"),
    ],
)
def test_files_that_are_no_instance_are_refused_by_name(tmp_path, text, words):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(iopddl.FormatError, match=words):
        iopddl.load(path)


def test_edges_that_do_not_fit_are_refused(tmp_path):
    bad = content()
    bad["problem"]["edges"] = {"nodes": [[0, 9]], "costs": [[1]]}
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(iopddl.FormatError, match=r"edge 0 joins nodes \[0, 9\]"):
        iopddl.load(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(iopddl.FormatError, match=r"nowhere.json"):
        iopddl.load(tmp_path / "nowhere.json")
