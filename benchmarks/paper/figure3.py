"""Figure 3: bytes that one chip's collectives move in a feed-forward layer, per layout, as tokens grow.

The layer is an ordinary JAX function; its layouts are strategies of the planner's own integer program, priced by the
paper's formula with local work left out. X = Y = Z = 4, E = 16384, F = 65536, bf16.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from planner import stages
from planner.cost.hardware import PRESETS
from planner.cost.paper import BANDWIDTH, PaperFormula, unpadded
from planner.layouts import Layout, allowed, weight_matmuls
from planner.solve import solve
from planner.stages import Setting
from planner.trace import trace

E, F = 16384, 65536
TOKENS = (2048, 16384, 65536, 131072, 524288, 1048576, 16777216)
PAPER = {
    "2-D weight-stationary": (0.06711, 0.5369, 2.147, 4.295, 17.18, 34.36, 549.8),
    "weight-gathered x": (0.3020, 0.5369, 1.342, 2.416, 8.858, 17.45, 275.1),
    "weight-gathered xy": (1.082, 1.141, 1.342, 1.611, 3.221, 5.369, 69.79),
    "weight-gathered xyz": (4.295, 4.295, 4.295, 4.295, 4.295, 4.295, 4.295),
    "1-D weight-stationary": (0.1342, 1.074, 4.295, 8.590, 34.36, 68.72, 1100.0),
}
"""Gigabytes, read off the figure's vector data (the last row is its formula: the figure does not plot it)."""
CROSSOVERS = (
    ("2-D weight-stationary", "weight-gathered x", 16384),
    ("weight-gathered x", "weight-gathered xy", 65536),
    ("weight-gathered xy", "weight-gathered xyz", 786432),
    ("2-D weight-stationary", "weight-gathered xyz", 131072),
)
STORED = (P("x", ("z", "y")), P(("z", "y"), "x"))
LAYOUTS = {
    "2-D weight-stationary": (Layout("", model=1, other=6), STORED, P(None, ("x", "y", "z"))),
    "weight-gathered x": (Layout("", rows=1, other=6), STORED, P("x", ("y", "z"))),
    "weight-gathered xy": (Layout("", rows=3, other=4), STORED, P(("x", "y"), "z")),
    "weight-gathered xyz": (Layout("", rows=7), STORED, P(("x", "y", "z"))),
    "1-D weight-stationary": (
        Layout("", other=7),
        (P(None, ("x", "y", "z")), P(("x", "y", "z"))),
        P(None, ("x", "y", "z")),
    ),
}


def feed_forward(w_in: jax.Array, w_out: jax.Array, x: jax.Array) -> jax.Array:
    """BLE → BLF → BLE."""
    return jax.nn.gelu(x @ w_in) @ w_out


def setting(sizes: Sequence[int] = (4, 4, 4)) -> Setting:
    """Communication alone, by the paper's formula."""
    machine = unpadded(PRESETS["tpu-v4"])
    chip = replace(machine.chip, flops={"bfloat16": inf, "float32": inf}, hbm_bandwidth=inf)
    mesh = AbstractMesh(tuple(sizes), ("x", "y", "z")[: len(sizes)])
    return Setting(mesh, replace(machine, chip=chip), inf, prices=PaperFormula(chip))


def volume_of(name: str, tokens: int) -> float:
    """Bytes per chip of all collectives of a layout."""
    layout, stored, rows = LAYOUTS[name]
    return moved(layout, stored, rows, tokens, setting())


def moved(layout: Layout, stored: Sequence[P], rows: P, tokens: int, where: Setting) -> float:
    """Bytes per chip of the layer in a layout, with weights and activations where the paper has them."""
    shapes = ((E, F), (F, E), (tokens, E))
    program = trace(feed_forward, [jax.ShapeDtypeStruct(s, jnp.bfloat16) for s in shapes], {}, where.mesh)
    graph = stages.graph_of(program, where, (*stored, rows), rows)
    formulation = stages.formulation_of(program, graph, where)
    solution = solve(formulation.problem, within=allowed(formulation, layout, weight_matmuls(graph)))
    return solution.seconds * BANDWIDTH


def crossover(a: str, b: str) -> float:
    """Tokens at which two layouts move the same: volumes are linear in tokens."""
    low, high = 1 << 14, 1 << 18
    (a0, a1), (b0, b1) = ([volume_of(name, t) for t in (low, high)] for name in (a, b))
    return low + (b0 - a0) * (high - low) / ((a1 - a0) - (b1 - b0))


def optimum(chips: int, tokens: int = 4096) -> int:
    """The X of an X × (n/X) mesh at which the 2-D weight-stationary layout moves least; the paper: sqrt(n E / F)."""
    sizes = [1 << k for k in range(1, chips.bit_length() - 1)]
    rows = P(None, ("x", "y"))
    best = {
        x: moved(Layout("", model=1, other=2), (P("x", "y"), P("y", "x")), rows, tokens, setting((x, chips // x)))
        for x in sizes
    }
    return min(best, key=lambda x: best[x])
