"""Strategies: every way to lay the mesh axes over the factors of an operation, derived from its rule.

A strategy gives each mesh axis one job: split a factor, nothing (the work is repeated), or carry an open sum through
a linear operation. All strategies of a node are the rows of one integer array; operand and result layouts, local
sizes and what is left to sum are read off it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from planner.rules.rule import Dims, Rule
from planner.sharding import MeshShape

Array = np.ndarray
REPEAT = -1


def open_job(group: int) -> int:
    """The job "carry an open sum through linear group number `group` of the rule"."""
    return -2 - group


@dataclass(frozen=True, eq=False)
class Strategies:
    """All strategies of one rule on one mesh.

    Attributes:
        jobs: For each strategy, for each mesh axis, a factor, REPEAT or an `open_job`: int array of shape [k, axes].
    """

    rule: Rule
    mesh: MeshShape
    jobs: Array

    def __len__(self) -> int:
        return len(self.jobs)

    def keep(self, rows: Array) -> "Strategies":
        """Those strategies alone, by index or by boolean mask."""
        return Strategies(self.rule, self.mesh, self.jobs[rows])

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
        groups = [open_job(g) for g, members in enumerate(self.rule.linear) if i in members]
        return self._layouts(self.rule.operands[i], np.isin(self.jobs, groups))

    def result(self, i: int) -> Array:
        """Layouts of result `i`, open over the axes that split a reduced factor: int array of shape [k, ndim + 1]."""
        reduced = np.isin(self.jobs, [f for f, how in self.rule.reduced.items() if f not in self._whole_in_result(i)])
        return self._layouts(self.rule.results[i], reduced | (self.jobs <= open_job(0)))

    def _whole_in_result(self, i: int) -> set[int]:
        return {f for dim in self.rule.results[i] for f in dim}

    def _layouts(self, dims: Dims, is_open: Array) -> Array:
        columns = [np.bitwise_or.reduce(self.factor_masks[:, list(dim)], axis=1) if dim else self._none for dim in dims]
        return np.stack([*columns, (is_open * self._bits).sum(1)], axis=1)

    @property
    def _none(self) -> Array:
        return np.zeros(len(self), int)


def enumerate_strategies(rule: Rule, mesh: MeshShape, *, may_be_open: bool = False) -> Strategies:
    """Every strategy of a rule: each axis on a splittable factor that it divides, or repeated, or open where linear.

    An axis of one device splits nothing.
    """
    opens = [open_job(g) for g in range(len(rule.linear))] if may_be_open else []
    jobs = [REPEAT, *rule.splittable(), *opens]
    rows = np.array(list(product(*(jobs if size > 1 else [REPEAT] for size in mesh.sizes))), int)
    rows = rows.reshape(-1, len(mesh.sizes))
    strategies = Strategies(rule, mesh, rows)
    return strategies.keep(_divides(rule.sizes, strategies) & _one_group(rows))


def _divides(sizes: Sequence[int], strategies: Strategies) -> Array:
    parts = strategies.mesh.size[strategies.factor_masks]
    return (np.asarray(sizes, int)[None, :] % parts == 0).all(1)


def _one_group(jobs: Array) -> Array:
    """All open axes of a strategy go through one linear group: a product of two open sums is no open sum."""
    opened = np.where(jobs <= open_job(0), jobs, 0)
    return opened.min(1) == np.where(opened == 0, opened.min(1, keepdims=True), opened).max(1)
