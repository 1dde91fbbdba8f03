"""Which arguments of a program are weights, found by structure.

Every argument is walked through the program with one scale for each of its dims, which varies along this dim alone.
Where a matmul contracts a dim along which such a scale varies, it contracts that dim of the argument:

    w[layers, e, h, d]   scan slices, reshape merges, einsum contracts   dims (1,)
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from passes.jaxpr import bind
from passes.scaled import Pair, Walk, values_of, varies


def quantizable(closed: Any) -> dict[int, tuple[int, ...]]:
    """The arguments of a program that are weights of matmuls and nothing else, each with its contracted dims.

    Such an argument is floating, of rank 2 or more, and read by `dot_general` only, always over the same dims and
    without batch dims, which a cache has. What meets it there is no argument itself; of two, as in `x @ w`, the second
    is the weight.
    """
    alike = {i: set(reads) for i, reads in reads_of(closed).items()}
    return {i: dims for i, kinds in alike.items() if len(kinds) == 1 for dims, as_weight in kinds if dims and as_weight}


class Read(NamedTuple):
    """The dims of an argument that a `dot_general` contracts, none for another reader, and whether as a weight."""

    contracted: tuple[int, ...]
    as_weight: bool


class _Reading(Walk):
    """Finds who reads an argument. Its pairs have a scale for each dim of the argument, that varies along this dim."""

    def __init__(self) -> None:
        self.found: dict[Any, list[Read]] = {}

    def dot(self, eqn: Any, lhs: Any, rhs: Any) -> Array:
        contracted, batch = eqn.params["dimension_numbers"]
        for side, x in enumerate((lhs, rhs)):
            if isinstance(x, Pair):
                dims = tuple(d for d, scales in enumerate(x.scales) if varies(scales, contracted[side]))
                streamed = side == 0 and isinstance(rhs, Pair)
                self._add(x, Read(dims, not batch[side] and not streamed))
        return bind(eqn, *map(values_of, (lhs, rhs), eqn.invars))[0]

    def plain(self, pair: Pair, dtype: Any, eqn: Any) -> Array:
        self._add(pair, Read((), False))
        return pair.values.astype(dtype)

    def _add(self, pair: Pair, read: Read) -> None:
        self.found.setdefault(pair.name, []).append(read)


def reads_of(closed: Any) -> Mapping[int, Sequence[Read]]:
    """For each argument that may be a weight, who reads it."""
    walk = _Reading()

    def run(*args: Array) -> list[Array]:
        return walk.body(closed.jaxpr, *closed.consts, *map(_probe, range(len(args)), args))

    jax.eval_shape(run, *closed.in_avals)
    return walk.found


def _probe(i: int, x: Array) -> Any:
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    along = (jnp.ones([n if d == e else 1 for e, n in enumerate(x.shape)]) for d in range(x.ndim))
    return Pair(x, tuple(along), i)
