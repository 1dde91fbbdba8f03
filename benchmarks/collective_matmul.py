"""Matmuls of large models along the schedule that the TPU compiler makes: `python -m benchmarks.collective_matmul`.

Weight-stationary in two dims: the first axis splits the model's width, the others the hidden dims (Pope et al. 2022,
section 3.2.2). What is multiplied arrives and leaves split as the layouts around it have it, and the planner chooses
how.

    off      sharding constraints, the compiler's own loops off
    default  sharding constraints
    hand     the collectives of the layouts by hand, one after the other
    ours     the plan; fused where it chose a ring
    forced   the best of the loops of `passes.ring`, in the order that a plan would walk, where it chose none
    in turn  the best of those that scatter, its weight's chunks rotated before (`passes.rotated`), which no plan does

*gain* is against the better of off and default. What does not fit into memory is a dash.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from statistics import geometric_mean
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import typer
from jax import P
from jax.sharding import NamedSharding
from rich import box
from rich.console import Console
from rich.table import Table

from passes import all_gather_matmul, matmul_reduce_scatter
from planner import autoshard
from planner.audit.schedule import Timer, timer_of
from planner.audit.topology import has_libtpu, topology_mesh
from planner.make import make_setting

MATMUL = (((1,), (0,)), ((), ()))
MODELS = {
    "palm-540b": {
        "q": (18432, 12288),
        "gate": (18432, 73728),
        "kv": (18432, 512),
        "o": (12288, 18432),
        "down": (73728, 18432),
    },
    "llama3-70b": {
        "q": (8192, 8192),
        "kv": (8192, 2048),
        "gate": (8192, 28672),
        "o": (8192, 8192),
        "down": (28672, 8192),
    },
}
INTO_WIDTH = ("o", "down")
NO_LOOPS = {"xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000}


@dataclass(frozen=True)
class Case:
    """One matmul `[tokens, k] · [k, n]` with the specs of its operands and its result."""

    name: str
    tokens: int
    k: int
    n: int
    lhs: P
    rhs: P
    out: P

    @property
    def specs(self) -> list[P]:
        """Of the operands and of the result."""
        return [self.lhs, self.rhs, self.out]

    def arguments(self, mesh: Any) -> list[jax.ShapeDtypeStruct]:
        """The operands."""
        shapes = (self.tokens, self.k), (self.k, self.n)
        where = [NamedSharding(mesh, spec) for spec in self.specs]
        return [jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=w) for s, w in zip(shapes, where)]


def cases(model: str, tokens: int, axes: Sequence[str]) -> Iterator[Case]:
    """The five matmuls of a layer."""
    first, rest = axes[0], tuple(axes[1:])
    for name, (k, n) in MODELS[model].items():
        if name in INTO_WIDTH:
            yield Case(name, tokens, k, n, P(None, (*rest, first)), P(rest, first), P(None, (first, *rest)))
        else:
            yield Case(name, tokens, k, n, P(None, first), P(first, rest), P(None, (*rest, first)))


def constrained(case: Case, mesh: Any, options: dict[str, Any]) -> Any:
    """Compiled from the shardings alone."""
    out = NamedSharding(mesh, case.specs[2])
    return jax.jit(jnp.matmul, out_shardings=out, compiler_options=options).lower(*case.arguments(mesh)).compile()


def by_force(case: Case, mesh: Any, told: Mapping[str, str], in_turn: bool = False) -> Iterator[Callable[[], Any]]:
    """Compiled with a ring over every axis or pair of axes that has a collective, what is left by hand.

    With chunks of the weight `in_turn`: the rings that scatter.
    """
    first, rest = mesh.axis_names[0], tuple(mesh.axis_names[1:])
    order, scattered = make_setting(mesh, None, None).shape.ring, partial(_scattered, in_turn=in_turn)
    loops: list[Callable] = [partial(scattered, axis=(first,), order=order((first,)))]
    if case.name in INTO_WIDTH:
        parts = [(rest[:n], rest[n:]) for n in range(1, len(rest) + 1)]
        rings = [partial(scattered, axis=a, order=order(a), gather=first, scatter=s) for a, s in parts]
        loops = [*([] if in_turn else [partial(_gathered, axis=first, order=order((first,)), scatter=rest)]), *rings]
    for loop in loops:
        yield partial(_mapped, loop, case, mesh, told)


def by_hand(case: Case, mesh: Any, told: Mapping[str, str]) -> Any:
    """Compiled with the collectives written out."""
    first, rest = mesh.axis_names[0], tuple(mesh.axis_names[1:])

    def plain(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        into = case.name in INTO_WIDTH
        whole = jax.lax.all_gather(lhs, first, axis=1, tiled=True) if into else lhs
        return jax.lax.psum_scatter(whole @ rhs, rest if into else first, scatter_dimension=1, tiled=True)

    return _mapped(plain, case, mesh, told)


def _mapped(matmul: Callable, case: Case, mesh: Any, told: Mapping[str, str]) -> Any:
    specs = {"in_specs": tuple(case.specs[:2]), "out_specs": case.specs[2], "check_vma": False}
    mapped = jax.shard_map(matmul, mesh=mesh, **specs)
    return jax.jit(mapped, compiler_options=dict(told)).lower(*case.arguments(mesh)).compile()


def _gathered(lhs: jax.Array, rhs: jax.Array, axis: str, order: Sequence[int], scatter: tuple[str, ...]) -> jax.Array:
    whole = all_gather_matmul(lhs, rhs, MATMUL, axis_name=axis, gather_dim=1, order=order)
    return jax.lax.psum_scatter(whole, scatter, scatter_dimension=1, tiled=True)


def _scattered(
    lhs: jax.Array,
    rhs: jax.Array,
    axis: tuple[str, ...],
    order: Sequence[int],
    gather: str | None = None,
    scatter: tuple[str, ...] = (),
    in_turn: bool = False,
) -> jax.Array:
    whole = jax.lax.all_gather(lhs, gather, axis=1, tiled=True) if gather else lhs
    ring = {"axis_name": axis, "scatter_dim": 1, "order": order, "in_turn": in_turn}
    out = matmul_reduce_scatter(whole, rhs, MATMUL, **ring)
    return jax.lax.psum_scatter(out, scatter, scatter_dimension=1, tiled=True) if scatter else out


@dataclass(frozen=True)
class Row:
    """Seconds of one matmul, infinite where it does not fit into memory."""

    off: float
    default: float
    hand: float
    ours: float
    ring: str
    forced: float | None
    in_turn: float

    @property
    def gain(self) -> float:
        """How many times faster ours is than constraints, with or without the compiler's own loops."""
        return min(self.off, self.default) / self.ours

    @property
    def by_hand(self) -> float:
        """How many times faster ours is than the collectives by hand."""
        return self.hand / self.ours


def measured(case: Case, mesh: Any, timer: Timer, told: Mapping[str, str]) -> Row:
    """Compiles and times a case; the compiler is told the same in every column."""

    def seconds(compiling: Callable[[], Any]) -> float:
        try:
            return timer.schedule(compiling()).seconds
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return inf

    specs = {"in_shardings": tuple(case.specs[:2]), "out_shardings": case.specs[2]}
    planned = autoshard(jnp.matmul, mesh=mesh, compiler_options=dict(told), **specs)
    arguments = case.arguments(mesh)
    rings = [op.ring for op in planned.plan(*arguments).operations if op.ring]
    return Row(
        off=seconds(lambda: constrained(case, mesh, {**told, **NO_LOOPS})),
        default=seconds(lambda: constrained(case, mesh, dict(told))),
        hand=seconds(lambda: by_hand(case, mesh, told)),
        ours=seconds(lambda: planned.lower(*arguments).compile()),
        ring=" ".join(f"{ring.kind} {''.join(ring.axes)}" for ring in rings),
        forced=None if rings else min(map(seconds, by_force(case, mesh, told))),
        in_turn=min(map(seconds, by_force(case, mesh, told, in_turn=True))),
    )


def main(
    topology: Annotated[list[str], typer.Option(help="Such as v4:4x4x4.")] = ["v4:4x4x4", "v5e:4x8", "v5p:4x4x4"],  # noqa: B006
    model: Annotated[list[str], typer.Option(help=f"Any of {', '.join(MODELS)}.")] = list(MODELS),  # noqa: B006
    tokens: Annotated[list[int], typer.Option(help="Rows of the lhs.")] = [64, 512, 8192, 32768, 131072],  # noqa: B006
    matmul: Annotated[list[str], typer.Option(help="Any of q, kv, gate, o, down; all by default.")] = [],  # noqa: B006
    option: Annotated[list[str], typer.Option(help="NAME=VALUE that the compiler is told, in every column.")] = [],  # noqa: B006
) -> None:
    """Prints the times, and how they compare where a ring was chosen and where none was."""
    console = Console()
    if not has_libtpu():
        console.print("needs the TPU compiler: pip install 'meshplan[tpu-aot]'")
        raise typer.Exit(1)
    if wrong := [text for text in option if "=" not in text]:
        raise typer.BadParameter(f"{wrong[0]!r} is not NAME=VALUE", param_hint="--option")
    rows, told = [], dict(text.split("=", 1) for text in option)
    for name in topology:
        mesh = topology_mesh(name)
        timer = timer_of(mesh)
        for of, count in ((m, t) for m in model for t in tokens):
            chosen = [c for c in cases(of, count, mesh.axis_names) if not matmul or c.name in matmul]
            found = [measured(case, mesh, timer, told) for case in chosen]
            console.print(_table(f"{of}, {count} tokens, {name}, µs", chosen, found))
            rows += found
    _summary(console, rows)


def _table(title: str, chosen: Sequence[Case], rows: Sequence[Row]) -> Table:
    table = Table(title=title, box=box.SIMPLE)
    for column in ("matmul", "off", "default", "hand", "ours", "gain", "by hand"):
        table.add_column(column, justify="left" if column == "matmul" else "right")
    table.add_column("ring", no_wrap=True)
    table.add_column("forced", justify="right")
    table.add_column("in turn", justify="right")
    for case, row in zip(chosen, rows):
        times = [_micro(x) for x in (row.off, row.default, row.hand, row.ours)]
        gains = [f"{x:.2f}" if isfinite(x) else "-" for x in (row.gain, row.by_hand)]
        forced = "" if row.forced is None else _micro(row.forced)
        table.add_row(case.name, *times, *gains, row.ring, forced, _micro(row.in_turn))
    return table


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:.1f}" if isfinite(seconds) else "-"


def _summary(console: Console, rows: Sequence[Row]) -> None:
    fused, plain = [r for r in rows if r.ring], [r for r in rows if not r.ring]
    for what, ratios in (("constraints", [r.gain for r in fused]), ("by hand", [r.by_hand for r in fused])):
        if gains := [x for x in ratios if isfinite(x)]:
            mean, worst = geometric_mean(gains), min(gains)
            console.print(f"fused in {len(gains)} beside {what}: {mean:.2f} times faster, at worst {worst:.2f}")
    if plain:
        missed = max(r.ours / r.forced for r in plain if r.forced)
        console.print(f"not fused in {len(plain)}: by force it would have been {missed:.2f} times faster at most")


if __name__ == "__main__":
    typer.run(main)
