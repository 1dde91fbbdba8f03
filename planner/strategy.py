"""Strategies: every way to lay the mesh axes over the factors of an operation, derived from its rule.

A strategy gives each mesh axis one job: split a factor, nothing (the work is repeated), or carry an open sum through
a linear operation. All strategies of a node are the rows of one integer array; operand and result layouts, local
sizes and what is left to sum are read off it.

A matmul may run a collective as a **ring** while it multiplies: an operand arrives split, or a sum leaves scattered,
over mesh axes that its work does not split there. Such a strategy has the work of the one without the ring, and other
layouts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from planner.rules.rule import Dims, Rule
from planner.sharding import MeshShape

Array = np.ndarray
REPEAT = -1
NO_RING = -1


def open_job(group: int) -> int:
    """The job "carry an open sum through linear group number `group` of the rule"."""
    return -2 - group


@dataclass(frozen=True)
class Ring:
    """Where a matmul's ring is: `place` is an operand's index or the number of operands, for the result."""

    place: int
    factor: int
    axes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Strategies:
    """All strategies of one rule on one mesh.

    Attributes:
        jobs: For each strategy, for each mesh axis, a factor, REPEAT or an `open_job`: int array of shape [k, axes].
        rings: For each strategy where its ring is (an operand's index, the number of operands for the result, or
            NO_RING), the factor whose chunks travel, and the mask of its axes: int array of shape [k, 3].
    """

    rule: Rule
    mesh: MeshShape
    jobs: Array
    rings: Array

    def __len__(self) -> int:
        return len(self.jobs)

    def keep(self, rows: Array) -> "Strategies":
        """Those strategies alone, by index or by boolean mask."""
        return Strategies(self.rule, self.mesh, self.jobs[rows], self.rings[rows])

    def ring(self, x: int) -> Ring | None:
        """The ring of strategy `x`."""
        place, factor, mask = map(int, self.rings[x])
        return None if place == NO_RING else Ring(place, factor, self.mesh.axes(mask))

    @cached_property
    def factor_masks(self) -> Array:
        """The mesh axes that split each factor: int array of shape [k, factors]."""
        factors = np.arange(len(self.rule.sizes))
        return ((self.jobs[:, None, :] == factors[None, :, None]) * self._bits).sum(2)

    @property
    def _bits(self) -> Array:
        return 1 << np.arange(len(self.mesh.sizes))

    @cached_property
    def local_sizes(self) -> Array:
        """Size of each factor on one device: float array of shape [k, factors]."""
        return np.asarray(self.rule.sizes, float)[None, :] / self.mesh.size[self.factor_masks]

    @cached_property
    def devices(self) -> Array:
        """Number of devices that share the work, not counting repetition: int array of shape [k]."""
        return (
            self.mesh.size[np.bitwise_or.reduce(self.factor_masks, axis=1)]
            if self.rule.sizes
            else np.ones(len(self), int)
        )

    def operand(self, i: int) -> Array:
        """Layouts of operand `i`: int array of shape [k, ndim + 1]."""
        return self._once("operand", i, self._operand)

    def result(self, i: int) -> Array:
        """Layouts of result `i`, open over the axes that split a reduced factor: int array of shape [k, ndim + 1]."""
        return self._once("result", i, self._result)

    def _once(self, side: str, i: int, make: Callable[[int], Array]) -> Array:
        if (side, i) not in self._made:
            self._made[side, i] = make(i)
        return self._made[side, i]

    @cached_property
    def _made(self) -> dict[tuple[str, int], Array]:
        return {}

    def _operand(self, i: int) -> Array:
        groups = [open_job(g) for g, members in enumerate(self.rule.linear) if i in members]
        return self._layouts(self.rule.operands[i], np.isin(self.jobs, groups), i)

    def _result(self, i: int) -> Array:
        reduced = np.isin(self.jobs, [f for f, how in self.rule.reduced.items() if f not in self._whole_in_result(i)])
        return self._layouts(self.rule.results[i], reduced | (self.jobs <= open_job(0)), len(self.rule.operands) + i)

    def _whole_in_result(self, i: int) -> set[int]:
        return {f for dim in self.rule.results[i] for f in dim}

    def _layouts(self, dims: Dims, is_open: Array, place: int) -> Array:
        columns = [np.bitwise_or.reduce(self.factor_masks[:, list(dim)], axis=1) if dim else self._none for dim in dims]
        at, factor, mask = self.rings.T
        for d, dim in enumerate(dims) if (at == place).any() else ():
            columns[d] = columns[d] | np.where((at == place) & np.isin(factor, dim), mask, 0)
        opened = (is_open * self._bits).sum(1)
        return np.stack([*columns, np.where(at == place, opened & ~mask, opened)], axis=1)

    @property
    def _none(self) -> Array:
        return np.zeros(len(self), int)


def enumerate_strategies(rule: Rule, mesh: MeshShape, *, may_be_open: bool = False, rings: bool = False) -> Strategies:
    """Every strategy of a rule: each axis on a splittable factor that it divides, or repeated, or open where linear.

    An axis of one device splits nothing. With `rings`, every ring of every strategy follows it.
    """
    opens = [open_job(g) for g in range(len(rule.linear))] if may_be_open else []
    jobs = [REPEAT, *rule.splittable(), *opens]
    rows = np.array(list(product(*(jobs if size > 1 else [REPEAT] for size in mesh.sizes))), int)
    rows = rows.reshape(-1, len(mesh.sizes))
    strategies = Strategies(rule, mesh, rows, np.full((len(rows), 3), NO_RING))
    strategies = strategies.keep(_divides(rule.sizes, strategies) & _one_group(rows))
    return _with_rings(strategies) if rings else strategies


def given_strategy(rule: Rule, mesh: MeshShape, given: Mapping[str, int]) -> Strategies:
    """The one strategy of a region that the user sharded: the factor that each axis splits, by name of the axis."""
    jobs = np.array([[given.get(name, REPEAT) for name in mesh.names]], int)
    return Strategies(rule, mesh, jobs, np.full((1, 3), NO_RING))


def _divides(sizes: Sequence[int], strategies: Strategies) -> Array:
    parts = strategies.mesh.size[strategies.factor_masks]
    return (np.asarray(sizes, int)[None, :] % parts == 0).all(1)


def _one_group(jobs: Array) -> Array:
    """All open axes of a strategy go through one linear group: a product of two open sums is no open sum."""
    opened = np.where(jobs <= open_job(0), jobs, 0)
    return opened.min(1) == np.where(opened == 0, opened.min(1, keepdims=True), opened).max(1)


def _with_rings(plain: Strategies) -> Strategies:
    """Adds, for every set of axes that split one factor, every ring that this allows.

    Axes that split what only the other operand has gather this one; axes that split a contracted factor scatter the
    result. Chunks are of any factor that leads its dim there.
    """
    rule, mesh = plain.rule, plain.mesh
    found = [(plain.jobs, plain.rings)]
    for mask in range(1, 1 << len(mesh.sizes)):
        axes = [a for a in range(len(mesh.sizes)) if mask >> a & 1]
        for job in rule.splittable():
            rows = np.flatnonzero((plain.jobs[:, axes] == job).all(1))
            for place, factor in _rings_of(rule, job) if len(rows) else ():
                ring = np.tile([place, factor, mask], (len(rows), 1))
                parts = mesh.size[plain.factor_masks[rows, factor] | mask]
                fits = rule.sizes[factor] % parts == 0
                found.append((plain.jobs[rows[fits]], ring[fits]))
    return Strategies(rule, mesh, *(np.concatenate(columns) for columns in zip(*found)))


def _rings_of(rule: Rule, job: int) -> Iterator[tuple[int, int]]:
    """Where a ring may be, and the factors whose chunks may travel, over axes that split the factor `job`."""
    free, places = set(rule.splittable()), [*rule.operands, rule.results[0]]
    named = [{f for dim in dims for f in dim} for dims in places]
    for place, factors in enumerate(named):
        gathers = place < len(rule.operands) and job not in factors and job in named[-1]
        scatters = place == len(rule.operands) and rule.reduced.get(job) == "sum"
        if gathers or scatters:
            yield from ((place, f) for f in sorted(factors & free))
