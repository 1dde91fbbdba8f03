"""`python -m benchmarks.memory`: peak bytes as planned, with everything whole, beside what XLA allocates on one device.

XLA's are the arguments, results and temporaries of the planned program, compiled for one device of the CPU, with
donated arguments counted once. `FRUGAL` has it schedule for memory, as it does on accelerators: on the CPU it would
rather run as much as it can at once.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType
from rich.console import Console
from rich.table import Table

from benchmarks.models import FAMILIES, Family
from planner import autoshard, make_plan

FRUGAL = "--xla_cpu_enable_concurrency_optimized_scheduler=false --xla_cpu_experimental_ynn_fusion_type="
WHOLE = AbstractMesh((1,), ("x",))
MB = 1e6
DONATED = {"decode": (1,), "prefill": (), "train": (0, 1)}
OPTIONS = {
    "decode": {"batch": 64, "context": 128},
    "prefill": {"batch": 64, "length": 128},
    "train": {"batch": 64, "length": 128},
}


@dataclass(frozen=True)
class Case:
    """A program whose memory is looked at: abstract arguments, the donated ones by number."""

    name: str
    fun: Callable
    args: tuple[Any, ...]
    donated: tuple[int, ...] = ()

    def planned(self) -> float:
        """Bytes at the peak, as the planner counts them on one device."""
        options = {"mesh": WHOLE, "machine": "cpu", "known": False, "donate_argnums": self.donated}
        return make_plan(self.fun, *self.args, memory_limit=float("inf"), **options).peak_bytes

    def compiled(self) -> float:
        """Bytes that XLA allocates for the planned program."""
        alone = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Auto,))
        planned = autoshard(
            self.fun, mesh=alone, machine="cpu", memory_limit=float("inf"), donate_argnums=self.donated or None
        )
        found = planned.lower(*self.args).compile().memory_analysis()
        if found is None:
            raise RuntimeError(f"this backend does not tell the memory of {self.name}: run on the CPU")
        kept = found.output_size_in_bytes - found.alias_size_in_bytes
        return float(found.argument_size_in_bytes + found.temp_size_in_bytes + kept)


def array(*shape: int) -> jax.ShapeDtypeStruct:
    """An abstract float32 array."""
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def write(cache: Array, row: Array, i: Array) -> Array:
    """One row of the cache written."""
    return lax.dynamic_update_slice_in_dim(cache, row, i, 0)


def attend(x: Array, cache: Array) -> Array:
    """Reads the whole cache twice."""
    return jnp.tanh(jnp.einsum("bt,td->bd", jnp.einsum("bd,td->bt", x, cache), cache))


def generate(cache: Array, row: Array) -> tuple[Array, Array]:
    """Every row written from what is read of the whole cache: the cache is a carry."""

    def step(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        cache, row = carry
        cache = write(cache, row, i)
        return (cache, attend(row, cache)), None

    return lax.scan(step, (cache, row), lax.iota(jnp.int32, 16))[0]


def through(cache: Array, x: Array) -> tuple[Array, Array]:
    """A layer at a time, each with its cache: scanned inputs and outputs."""

    def layer(x: Array, cache: Array) -> tuple[Array, Array]:
        cache = write(cache, x, jnp.int32(3))
        return attend(x, cache), cache

    return lax.scan(layer, x, cache)


def mlp(weights: tuple[Array, Array], x: Array, *, remat: bool = False) -> Array:
    """Scanned layers of an MLP."""

    def layer(x: Array, pair: tuple[Array, Array]) -> tuple[Array, None]:
        return x + jnp.tanh(x @ pair[0]) @ pair[1], None

    return jnp.sum(lax.scan(jax.checkpoint(layer) if remat else layer, x, weights)[0] ** 2)


def small() -> Iterator[Case]:
    """Programs of one idea."""
    cache, row = array(4096, 256), array(1, 256)
    yield Case("cache written, donated", write, (cache, row, jnp.int32(0)), (0,))
    yield Case("cache written, kept", write, (cache, row, jnp.int32(0)))
    yield Case("cache as carry, donated", generate, (cache, row), (0,))
    yield Case("cache as carry, kept", generate, (cache, row))
    stack, x = array(4, 4096, 256), array(1, 256)
    yield Case("cache as xs and ys, donated", through, (stack, x), (0,))
    yield Case("cache as xs and ys, kept", through, (stack, x))
    weights = array(8, 256, 1024), array(8, 1024, 256)
    yield Case("scanned MLP", mlp, (weights, array(2048, 256)))
    yield Case("its gradient", jax.grad(mlp), (weights, array(2048, 256)))
    yield Case("its gradient, remat", jax.grad(partial(mlp, remat=True)), (weights, array(2048, 256)))


def model(family: str, kind: str, scan: bool) -> Case:
    """A model wide enough for its buffers to dominate."""
    tiny = FAMILIES[family].sizes["tiny"]
    wide = replace(tiny, layers=4, d_model=256, d_ff=1024, d_head=32, vocab=1024, max_length=128)
    fun, args = getattr(Family({"wide": wide}, "wide"), kind)(scan=scan, **OPTIONS[kind])
    return Case(f"{family} {kind}{'' if scan else ', unrolled'}", fun, args, DONATED[kind])


def models() -> Iterator[Case]:
    """Steps of real models."""
    yield from (model(family, kind, scan) for family in ("palm", "llama") for kind in OPTIONS for scan in (True, False))


def table(cases: Sequence[Case]) -> Table:
    """Planned beside compiled."""
    found = Table("program", title="Peak MB on one device")
    for column in ("planned", "XLA", "ratio"):
        found.add_column(column, justify="right")
    for case in cases:
        planned, compiled = case.planned(), case.compiled()
        found.add_row(case.name, f"{planned / MB:.1f}", f"{compiled / MB:.1f}", f"{planned / compiled:.2f}")
    return found


if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = FRUGAL  # before the first compilation, which reads it
    Console().print(table([*small(), *models()]))
