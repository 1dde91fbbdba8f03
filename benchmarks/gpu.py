"""`python -m benchmarks.gpu MACHINE`: one GPU's matmuls beside their prices, and a ring's matmul beside a plain one.

Needs a GPU of the preset's kind (`jax[cuda13]`). Every matmul is that of a Llama 3 70B layer split over eight
chips; pairs of them follow each other over different weights, so that no weight stays in a cache. The ring is the loop
of `passes.ring` with all of its chunks at hand: its permutes are left out, nothing else is.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax import Array, lax
from rich.console import Console
from rich.table import Table

from passes import ring
from planner.cost.collectives import groups
from planner.cost.hardware import PRESETS, Chip
from planner.cost.model import Roofline

LAYERS, REPEATS, CALLS, ROUNDS = 8, 5, 20, 7
PAIRS = {"gate, down": (8192, 3584), "q, o": (8192, 1024)}
TOKENS = (64, 512, 2048, 8192, 32768)
DOT = (((1,), (0,)), ((), ()))


def timed(fun: Callable, *args: Any) -> float:
    """Seconds of a call, of many in flight: the median of several rounds, after a first one."""
    made = jax.jit(fun).lower(*args).compile()
    return float(np.median([_round(made, args) for _ in range(ROUNDS + 1)][1:]))


def _round(made: Callable, args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready([made(*args) for _ in range(CALLS)])
    return (time.perf_counter() - start) / CALLS


def drawn(*shape: int, dtype: Any = jnp.bfloat16) -> Array:
    """Random numbers: products of zeros run faster."""
    return (jax.random.normal(jax.random.key(sum(shape)), shape, jnp.float32) / shape[0] ** 0.5).astype(dtype)


def pair(tokens: int, k: int, n: int) -> float:
    """Seconds of `[tokens, k] · [k, n] · [n, k]`, one of many in a row; the start of a call is taken off."""

    def chain(x: Array, ws: list[tuple[Array, Array]]) -> Array:
        for into, back in ws:
            x = (x @ into) @ back
        return x

    x, weights = drawn(tokens, k), [(drawn(k, n), drawn(n, k)) for _ in range(LAYERS)]
    return (timed(chain, x, weights) - timed(chain, x, weights[:1])) / (LAYERS - 1)


def priced(chip: Chip, tokens: int, k: int, n: int) -> float:
    """Seconds of the same by the cost model."""
    model = Roofline(chip, groups(()))
    nbytes = 2.0 * (tokens * k + k * n + tokens * n)
    each = model.compute(np.array(2.0 * tokens * k * n), np.array(nbytes), "bfloat16")
    return 2 * (float(each) + model.launch)


def copy(gigabytes: int = 2) -> float:
    """Bytes/s, read and written, of a large elementwise operation."""
    x = drawn(gigabytes << 9, 1 << 20)
    return 4 * x.size / timed(lambda x: -x, x)


def repeated(fun: Callable, args: list[Any]) -> float:
    """Seconds of a call of `fun`, one of several in a program; the start of the program is taken off."""

    def each(args: list[Any]) -> list[Array]:
        return [fun(*a) for a in args]

    return (timed(each, args) - timed(each, args[:1])) / (len(args) - 1)


def rings(tokens: int, k: int, n: int, steps: int) -> Iterator[tuple[float, float]]:
    """Seconds of a matmul in some steps and of a plain one: gathering rows, scattering them, scattering behind a gate.

    What is scattered is sliced: a copy where it is an argument, part of its own computation where it is not.
    """
    others = [(drawn(k, n) + i, jnp.int32(steps // 2)) for i in range(REPEATS)]
    xs = [drawn(tokens, k) + i for i in range(REPEATS)]
    chunks = [[x[i * (tokens // steps) :][: tokens // steps] for i in range(steps)] for x in xs]

    def gathered(chunks: list[Array], w: Array, me: Array) -> Array:
        arrived = [(me + i, chunk) for i, chunk in enumerate(chunks)]
        with mock.patch.object(ring, "_from_both_sides", lambda *_: iter(arrived)), alone(steps, me):
            return ring.all_gather_matmul(chunks[0], w, DOT, axis_name="x", gather_dim=0)

    def scattered(x: Array, w: Array, me: Array) -> Array:
        with alone(steps, me):
            return ring.matmul_reduce_scatter(x, w, DOT, axis_name="x", scatter_dim=0)

    def plain(x: Array, w: Array, me: Array) -> Array:
        return x @ w

    def gated(matmul: Callable) -> Callable:
        return lambda x, up, w, me: matmul(jax.nn.silu(x) * up, w, me)

    arguments, gates = [(x, *rest) for x, rest in zip(xs, others)], [(x, x[::-1], *rest) for x, rest in zip(xs, others)]
    straight = repeated(plain, arguments)
    yield repeated(gathered, [(c, *rest) for c, rest in zip(chunks, others)]), straight
    yield repeated(scattered, arguments), straight
    yield repeated(gated(scattered), gates), repeated(gated(plain), gates)


@contextmanager
def alone(steps: int, me: Array) -> Iterator[None]:
    """One device as one of several, which gets what it sends."""
    instead = {
        (lax, "axis_size"): lambda _: steps,
        (lax, "axis_index"): lambda _: me,
        (ring._Ring, "sent"): lambda _, x, step: x,
    }
    with ExitStack() as stack:
        for (where, name), fun in instead.items():
            stack.enter_context(mock.patch.object(where, name, fun))
        yield


def main(machine: Annotated[str, typer.Argument(help="A preset, such as h100 or h200.")]) -> None:
    """Prints measured beside priced."""
    chip, console = PRESETS[machine].chip, Console(width=140)
    console.print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; copy {copy() / 1e12:.2f} TB/s")
    table = Table("matmuls", "tokens", "measured µs", "priced µs", "error", "TFLOP/s")
    for (name, (k, n)), tokens in ((p, t) for p in PAIRS.items() for t in TOKENS):
        took, price = pair(tokens, k, n), priced(chip, tokens, k, n)
        cells = (
            f"{1e6 * took:.1f}",
            f"{1e6 * price:.1f}",
            f"{price / took - 1:+.0%}",
            f"{4e-12 * tokens * k * n / took:.0f}",
        )
        table.add_row(name, str(tokens), *cells)
    console.print(table)
    titles = "tokens", "steps", "plain µs", "gathered", "scattered", "scattered behind a gate"
    table = Table(*titles, title="A ring's matmul over a plain one")
    for tokens, steps in ((t, s) for t in (8192, 32768) for s in (1, 2, 4, 8)):
        found = list(rings(tokens, 8192, 3584, steps))
        table.add_row(str(tokens), str(steps), f"{1e6 * found[0][1]:.1f}", *(f"{t / plain:.3f}" for t, plain in found))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
