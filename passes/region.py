"""Runs of equations, computed on shards: what one device does, with every collective as asked.

A sharding constraint asks for a layout and leaves the collective to the compiler. A region commands it. With the
equations 0 and 1 as a region, `w` and `v` split over their contracted dims,

    {x w v. a = dot_general x w; b = tanh a; c = dot_general b v}

becomes

    {x w v. b = shard_map[{x w. a = dot_general x w; s = reduce_scatter a; b = tanh s}] x w; c = dot_general b v}

The body of the `shard_map` computes each equation on shards, in the layout that its `Local` says, and moves values
where a reader wants another one (`passes.moves`). A value that several readers want in one layout moves once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import jax
from jax.extend.source_info_util import user_context
from jax.sharding import AbstractMesh, Mesh

from passes import jaxpr
from passes.jaxpr import Path
from passes.moves import move
from passes.way import Shard, Sizes, Torus, nearest

SCOPE = "meshplan"


@dataclass(frozen=True)
class Local:
    """One equation on a shard.

    Attributes:
        operands: The layout in which each operand is read; None for literals.
        results: For each result the layout in which it is computed, then those through which it passes to where it
            lies for its readers.
        params: Params of the primitive on a shard; None where the result is the operand.
        instead: What stands in for the primitive, such as a ring.
        shared: For each operand a layout that is made first, as several read it; None where there is none.
    """

    operands: tuple[Shard | None, ...]
    results: tuple[tuple[Shard, ...], ...]
    params: Mapping[str, Any] | None
    instead: Callable[..., Any] | None = None
    shared: tuple[Shard | None, ...] = ()

    def on(self, eqn: Any, operands: Sequence[Any]) -> Sequence[Any]:
        """The results for a device's operands."""
        if self.instead is not None:
            return [self.instead(*operands)]
        return operands if self.params is None else jaxpr.bind(eqn, *operands, params=self.params)


@dataclass(frozen=True)
class Region:
    """Equations next to each other in one body.

    Attributes:
        equations: One `Local` each.
        inputs: The layout of each value that they read from before, as `passes.jaxpr.border` lists them.
        outputs: Likewise of each that is read after.
        torus: What the mesh axes walk.
    """

    equations: tuple[Local, ...]
    inputs: tuple[Shard, ...]
    outputs: tuple[Shard, ...]
    torus: Torus = field(default_factory=dict)


def run_of(closed: Any, path: Path, region: Region, mesh: Mesh | AbstractMesh) -> jaxpr.Run:
    """The replacement for the equations of a region that begins at `path`.

    Args:
        closed: The program.
        path: Of the region's first equation.
        region: Says what a device does.
        mesh: All of its axes become manual inside.
    """
    body, start = jaxpr.body_at(closed, path[:-1]), int(path[-1])
    stop = start + len(region.equations)
    ins, outs = jaxpr.border(body, start, stop)
    sizes = dict(mesh.shape)

    def local(*shards: jax.Array) -> list[jax.Array]:
        values = _Values(sizes, region.torus)
        for v, x, shard in zip(ins, shards, region.inputs):
            values.put(v, x, (shard,))
        for eqn, how in zip(body.eqns[start:stop], region.equations):
            values.compute(eqn, how)
        return [values.get(v, shard) for v, shard in zip(outs, region.outputs)]

    specs = ([shard.spec for shard in side] for side in (region.inputs, region.outputs))
    in_specs, out_specs = map(tuple, specs)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=in_specs, out_specs=list(out_specs), check_vma=False)
    return jaxpr.Run(len(region.equations), mapped)


class _Values:
    """The values of a region on one device, each in the layouts that it has been in."""

    def __init__(self, sizes: Sizes, torus: Torus):
        self.sizes, self.torus = sizes, torus
        self.known: dict[Any, dict[Shard, jax.Array]] = {}

    def put(self, v: Any, x: jax.Array, way: Sequence[Shard]) -> None:
        """A value as it was computed, moved on until it lies where `way` ends."""
        self.known[v] = {way[0]: x}
        for before, shard in pairwise(way):
            self.known[v] = {shard: self.moved(self.known[v][before], before, shard)} | self.known[v]

    def get(self, v: Any, shard: Shard) -> jax.Array:
        """The value in a layout, moved from the layout that is nearest."""
        known = self.known[v]
        if shard not in known:
            have = nearest(known, shard)
            known[shard] = self.moved(known[have], have, shard)
        return known[shard]

    def moved(self, x: jax.Array, have: Shard, want: Shard) -> jax.Array:
        with jax.named_scope(SCOPE):
            return move(x, have, want, self.sizes, self.torus)

    def compute(self, eqn: Any, how: Local) -> None:
        """One equation on its shards; it and the moves around it lead to its line."""
        with user_context(eqn.source_info.traceback, name_stack=eqn.source_info.name_stack):
            for v, shard in zip(eqn.invars, how.shared):
                _ = shard and self.get(v, shard)
            operands = [v.val if shard is None else self.get(v, shard) for v, shard in zip(eqn.invars, how.operands)]
            results = how.on(eqn, operands)
            for v, x, way in zip(eqn.outvars, results, how.results):
                self.put(v, x, way)
