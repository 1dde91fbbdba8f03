"""What `meshplan demo` shows: PaLM 540B planned for 64 chips, and a tiny PaLM that runs its plan on 8 devices."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh
from rich.table import Table

from benchmarks.models import init, palm, tiny
from planner.api import autoshard
from planner.cost.hardware import Chip, Fabric, Machine
from planner.make import make_plan
from planner.plan import Plan
from planner.stages import Progress

BATCH, PROMPT, NEW = 16, 8, 8
# Slow memory and quick links: on the presets, a model this small is best left whole on every chip.
TOY = Machine("toy", Chip("toy", {"float32": 1e12}, 1e9, 1e9), Fabric(1e9, 1e-7, torus=3, wraps=4))
OPCODES: Mapping[str, str] = {
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "all_reduce": "all-reduce",
    "all_to_all": "all-to-all",
    "permute": "collective-permute",
}


@dataclass(frozen=True)
class Run:
    """Greedy decoding without a plan and with it.

    Attributes:
        without: Tokens of plain `jax.jit` on one device, [BATCH, NEW].
        planned: Tokens of the planned function on all devices of the mesh, [BATCH, NEW].
        plan: The plan of one decode step.
        compiled: Number of collectives of each kind in the compiled step.
    """

    without: np.ndarray
    planned: np.ndarray
    plan: Plan
    compiled: Mapping[str, int]

    @property
    def same(self) -> bool:
        """Whether the plan changed no token."""
        return np.array_equal(self.without, self.planned)


def plan_palm(progress: Progress | None = None) -> Plan:
    """PaLM 540B decode, batch 512, context 2048, for 64 chips of TPU v4. Needs no devices."""
    fun, args = palm.decode_540b_b512()
    mesh = AbstractMesh((4, 4, 4), ("x", "y", "z"))
    return make_plan(fun, *args, mesh=mesh, machine="tpu-v4", donate_argnames="cache", progress=progress)


def simulated_mesh() -> Mesh:
    """Eight simulated CPU devices as 2×2×2. To be called before anything starts a JAX backend."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    return jax.make_mesh((2, 2, 2), ("x", "y", "z"), axis_types=(AxisType.Auto,) * 3)


def run_tiny(mesh: Mesh) -> Run:
    """Reads prompts once, then decodes greedily from there without and with the plan."""
    decode, abstract = palm.decode("tiny", batch=BATCH, context=PROMPT + NEW)
    planned = autoshard(decode, mesh=mesh, machine=TOY, donate_argnames="cache")
    params, cache, first = _read_prompts()
    without = _generate(jax.jit(decode), params, cache, first)
    with_plan = _generate(planned, params, cache, first)
    compiled = planned.lower(*abstract).compile().as_text()
    return Run(without, with_plan, planned.plan(*abstract), collectives_in(compiled))


def _read_prompts() -> tuple[Any, Any, jax.Array]:
    """Parameters, a cache with room for NEW tokens more, and the first new token."""
    config = tiny("palm")
    weights, prompts = jax.random.split(jax.random.key(0))
    params = init(config, weights)
    tokens = jax.random.randint(prompts, (BATCH, PROMPT), 0, config.vocab, jnp.int32)
    prefill, _ = palm.prefill("tiny", batch=BATCH, length=PROMPT)
    logits, cache = jax.jit(prefill)(params, tokens)
    room = ((0, 0), (0, 0), (0, NEW), (0, 0))
    return params, jax.tree.map(lambda a: jnp.pad(a, room), cache), jnp.argmax(logits, -1).astype(jnp.int32)


def _generate(step: Callable, params: Any, cache: Any, tokens: jax.Array) -> np.ndarray:
    cache, written = jax.tree.map(jnp.copy, cache), []
    for position in range(PROMPT, PROMPT + NEW):
        tokens, cache = step(params, cache, tokens, jnp.int32(position))
        written.append(tokens)
    return np.stack(written, axis=1)


def collectives_in(hlo: str) -> dict[str, int]:
    """Number of collectives of each kind in compiled HLO; the two halves of an asynchronous one count once."""
    found = Counter(re.findall(rf" ({'|'.join(OPCODES.values())})(?:-start)?\(", hlo))
    return {kind: found[opcode] for kind, opcode in OPCODES.items()}


def collectives_table(run: Run) -> Table:
    """What the plan expects beside what the compiler made of it."""
    expected = Counter(c.kind for c in run.plan.collectives if not c.ring)
    table = Table(title="Collectives of one decode step", title_justify="left", title_style="bold")
    table.add_column("kind")
    table.add_column("in the plan", justify="right")
    table.add_column("in the compiled program", justify="right")
    for kind, count in run.compiled.items():
        table.add_row(kind, str(expected[kind]), str(count))
    table.add_row("rings, as permutes", str(sum(c.ring for c in run.plan.collectives)), "")
    return table
