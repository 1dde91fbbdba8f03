import numpy as np

from planner.solve import memo as module
from planner.solve.memo import Memo
from planner.solve.table import Table, add


class Counted:
    """A function that counts how often it is called."""

    def __init__(self):
        self.calls = 0

    def __call__(self, a, b=None):
        self.calls += 1
        return a + (0 if b is None else b)


def test_the_same_arrays_are_worked_on_once():
    memo, fun, a, b = Memo(), Counted(), np.arange(3.0), np.ones(3)
    first = memo(fun, a, b)
    assert memo(fun, a, b) is first and fun.calls == 1
    assert memo(fun, a).tolist() == a.tolist() and fun.calls == 2
    assert memo(fun, a, None) is memo(fun, a, None) and fun.calls == 3


def test_equal_results_are_one_array():
    memo, fun = Memo(), Counted()
    first, second = (
        memo(fun, np.array([1.0, 2.0]), np.array([2.0, 1.0])),
        memo(fun, np.array([0.0, 0.0]), np.full(2, 3.0)),
    )
    assert fun.calls == 2 and first is second
    assert memo.one(np.array([3.0, 3.0])) is first


def test_what_only_looks_equal_is_not_one():
    memo = Memo()
    assert memo.one(np.array([1, 2])) is not memo.one(np.array([1.0, 2.0]))
    assert memo.one(np.zeros((2, 3))) is not memo.one(np.zeros((3, 2)))
    assert memo.one(np.zeros(4, np.int32)) is not memo.one(np.zeros(2, np.int64))
    large = np.zeros(1000)
    other = large.copy()
    other[999] = 1
    assert memo.one(large) is memo.one(large.copy()) and memo.one(large) is not memo.one(other)


def test_equal_tables_are_one_and_so_is_what_is_made_of_them():
    def table():
        return Table(np.array([0, 1, 1]), np.array([0, 1]), np.array([[0.0, 1.0], [2.0, np.inf]]), (np.ones((2, 2)),))

    memo = Memo()
    a, b = memo.one(table()), memo.one(table())
    assert a is b and memo(add, a, b) is memo(add, a, b)
    assert memo(add, a, b).cost.tolist() == [[0.0, 2.0], [4.0, np.inf]]
    assert memo.one((table(), np.ones(2))) == (a, memo.one(np.ones(2)))


def test_arrays_may_be_freed_and_their_addresses_used_again():
    """Arguments are kept as long as what was made of them, so that an identity means one array."""
    memo, fun = Memo(), Counted()
    found = [float(memo(fun, np.array([float(i)]))[0]) for i in range(100)]
    assert found == list(range(100))


def test_too_much_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 1000)
    memo, fun, a = Memo(), Counted(), np.zeros(200)
    first = memo(fun, a)
    memo(fun, np.ones(200))
    assert memo(fun, a).tolist() == first.tolist() and fun.calls == 3
