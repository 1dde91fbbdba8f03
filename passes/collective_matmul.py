"""Replaces addressed matmuls by ring loops.

With `{(0,): Site("all_gather", "x", lhs=P("x"), rhs=P(None, "x"), out=P(None, "x"))}` the program

    {a w. c = dot_general a w}

becomes

    {a w. c = shard_map[{a w. p = ppermute a; b = dot_general a w; …} in_specs=(P("x"), P(None, "x"))] a w}

The specs of a site say the rest: which operand's dim is gathered, onto which dim the sum is scattered, and which other
axes of the contracted dims are summed (by a reduce-scatter if the result is split over them, else by an all-reduce).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from passes import jaxpr
from passes.constrain import auto
from passes.jaxpr import Path
from passes.region import SCOPE
from passes.ring import Axis, Loops, loops
from passes.ring import all_gather_matmul as all_gather_matmul
from passes.ring import matmul_reduce_scatter as matmul_reduce_scatter

Split = dict[int, tuple[str, ...]]


@dataclass(frozen=True)
class Site:
    """A matmul that becomes a ring.

    Attributes:
        kind: "all_gather" gathers one operand, "reduce_scatter" scatters the result.
        axis: The mesh axis of the ring, or axes from major to minor. In the dim that it gathers or scatters it is the
            minor-most.
        lhs: Spec of the lhs as it comes.
        rhs: Spec of the rhs as it comes.
        out: Spec of the result.
        opened: Axes over which the result stays an open sum. It leaves the ring with a dim in front, split over them,
            and is summed over that dim: where the reduction goes is the compiler's or a constraint's business.
        order: The devices along the axis as they stand round the ring; empty for in the order of their numbers.
    """

    kind: Literal["all_gather", "reduce_scatter"]
    axis: Axis
    lhs: PartitionSpec
    rhs: PartitionSpec
    out: PartitionSpec
    opened: tuple[str, ...] = ()
    order: tuple[int, ...] = ()


def fuse(closed: Any, sites: Mapping[Path, Site], mesh: Mesh | AbstractMesh) -> Any:
    """The program with a ring at every site.

    Raises:
        ValueError: A path does not name a `dot_general`, or the specs of a site describe no such ring.
    """
    return jaxpr.rewrite(closed, rings(closed, sites, mesh))


def rings(closed: Any, sites: Mapping[Path, Site], mesh: Mesh | AbstractMesh) -> Callable[[Path, Any], Callable | None]:
    """What stands in for the equation at each site; for `jaxpr.rewrite`, or `constrain` in one go. Raises as `fuse`."""
    dots = {path for path, eqn in jaxpr.walk(closed) if jaxpr.primitive_name(eqn) == "dot_general"}
    if strange := [jaxpr.show(path) for path in sites if path not in dots]:
        raise ValueError(f"no dot_general at {', '.join(strange)}; take paths from walk() on this very program")
    return lambda path, eqn: _ring(path, eqn, sites[path], auto(mesh)) if path in sites else None


def on_shards(path: Path, eqn: Any, site: Site) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """What one device does with its shards of the operands. Raises as `fuse`."""
    names = loops(eqn.params["dimension_numbers"], *(v.aval.ndim for v in eqn.invars))
    try:
        return _local(site, names, eqn.params)
    except ValueError as error:
        raise ValueError(f"{jaxpr.locate(path, eqn)}: {error}; {site}") from error


def _ring(path: Path, eqn: Any, site: Site, mesh: Mesh | AbstractMesh) -> Callable:
    local = on_shards(path, eqn, site)
    specs: dict[str, Any] = {"mesh": mesh, "in_specs": (site.lhs, site.rhs), "check_vma": False}
    if not site.opened:
        whole = jax.shard_map(local, out_specs=site.out, **specs)
        return jax.named_scope(SCOPE)(lambda lhs, rhs: [whole(lhs, rhs)])
    out = PartitionSpec(site.opened, *site.out)
    summands = jax.shard_map(lambda lhs, rhs: local(lhs, rhs)[None], out_specs=out, **specs)
    return jax.named_scope(SCOPE)(lambda lhs, rhs: [lax.reduce_sum(summands(lhs, rhs), (0,))])


def _local(site: Site, names: tuple[Loops, Loops, Loops], params: Mapping[str, Any]) -> Callable:
    """What one device does, from how the specs split each loop."""
    lhs, rhs, out = (_split(spec, loop) for spec, loop in zip((site.lhs, site.rhs, site.out), names))
    axis = site.axis if isinstance(site.axis, tuple) else (site.axis,)
    common: dict[str, Any] = {k: params[k] for k in ("dimension_numbers", "precision", "preferred_element_type")}
    opened = [a for loop, axes in lhs.items() if loop not in out and rhs[loop] for a in axes]
    finish = _finish(out, names[2], [a for a in opened if a not in axis and a not in site.opened])
    if site.kind == "all_gather":
        operand, loop = _gathered(lhs, rhs, out, axis)
        (lhs, rhs)[operand][loop] = (lhs, rhs)[operand][loop][: -len(axis)]
        ring: Callable = all_gather_matmul
        where = {"operand": operand, "gather_dim": names[operand].index(loop)}
    else:
        loop = _scattered(lhs, rhs, out, axis)
        out[loop] = out[loop][: -len(axis)]
        ring = matmul_reduce_scatter
        where = {"scatter_dim": names[2].index(loop)}
    _agree(lhs, rhs, out)
    return lambda a, b: finish(ring(a, b, axis_name=axis, order=site.order, **common, **where))


def _split(spec: PartitionSpec, names: Loops) -> Split:
    """The axes that split each loop."""
    dims = [() if dim is None else dim if isinstance(dim, tuple) else (dim,) for dim in spec]
    if len(dims) > len(names):
        raise ValueError(f"{spec} has more dims than the array's {len(names)}")
    return dict(zip(names, dims + [()] * (len(names) - len(dims))))


def _finish(out: Split, names: Loops, opened: list[str]) -> Callable[[jax.Array], jax.Array]:
    """Sums over the axes that the ring leaves open, and takes them out of `out`."""
    scatters = []
    for dim, loop in enumerate(names):
        kept = next((i for i in range(len(out[loop]), 0, -1) if out[loop][i - 1] not in opened), 0)
        scatters += [(dim, out[loop][kept:])] if out[loop][kept:] else []
        out[loop] = out[loop][:kept]
    rest = tuple(a for a in opened if not any(a in axes for _, axes in scatters))

    def finish(x: jax.Array) -> jax.Array:
        for dim, axes in scatters:
            x = lax.psum_scatter(x, axes, scatter_dimension=dim, tiled=True)
        return lax.psum(x, rest) if rest else x

    return finish


def _gathered(lhs: Split, rhs: Split, out: Split, axis: tuple[str, ...]) -> tuple[int, int]:
    found = [
        (operand, loop)
        for operand, (one, other) in enumerate(((lhs, rhs), (rhs, lhs)))
        for loop, axes in one.items()
        if axes[-len(axis) :] == axis and axes not in (out.get(loop), other.get(loop))
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} dims of the operands end in {axis} and are whole elsewhere, one is needed")
    return found[0]


def _scattered(lhs: Split, rhs: Split, out: Split, axis: tuple[str, ...]) -> int:
    found = [
        loop for loop, axes in out.items() if axes[-len(axis) :] == axis and axes not in (lhs.get(loop), rhs.get(loop))
    ]
    summed = {a for loop, axes in lhs.items() if loop not in out and rhs[loop] == axes for a in axes}
    if len(found) != 1 or not summed.issuperset(axis):
        raise ValueError(f"one dim of the result must end in {axis}, over which both operands split contracted dims")
    return found[0]


def _agree(lhs: Split, rhs: Split, out: Split) -> None:
    for loop in (*lhs, *rhs):
        splits = {split[loop] for split in (lhs, rhs, out) if loop in split}
        if len(splits) > 1:
            raise ValueError(f"besides the ring, dims that belong together are split by {sorted(splits)}")
