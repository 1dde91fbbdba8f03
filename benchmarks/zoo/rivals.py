"""The hand-written `ShardingConfig` of tunix beside the plan: `python -m benchmarks.zoo.rivals`.

It lays every parameter over two mesh axes, fsdp and tp, in one way to generate and in another to train, and pins
activations. Two rivals: *tunix* is its own program, with those shardings, what it says of activations (which it leaves
out where it sees a CPU) and the cache as its keys lie; *tunix, rest planned* pins the parameters alone and leaves
everything else to the planner, which is the rival at its best. Both, and ours, are compiled for TPU v5e without one
(extra `tpu-aot`), where the compiler chooses how arguments lie in memory. Weights, cache and moments are bfloat16;
training is one AdamW step, each layer recomputed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import typer
from flax import nnx
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from tunix.models.llama3 import model as llama  # pyright: ignore[reportMissingImports]

import planner
from benchmarks.audit import HEADROOM, LIMITS, attempted, table
from benchmarks.zoo.tunix import BATCH, CONTEXT, decode_arguments, unannotated
from planner.audit.schedule import timer_of
from planner.audit.topology import topology_mesh
from planner.errors import PlanError
from planner.realise import Realised
from planner.trace import trace
from planner.units import seconds

SIZES = {"8B": llama.ModelConfig.llama3p1_8b, "70B": llama.ModelConfig.llama3_70b}
MESHES = ((4, 4), (8, 8))
LENGTH, CACHE = 256, PartitionSpec("fsdp", None, "tp", None)
OPTIMISER = optax.adamw(1e-4)


@dataclass(frozen=True)
class Step:
    """A decode step with its cache, or a training step, of one model on one mesh; `layers` 0 means all."""

    size: str
    shape: tuple[int, int]
    training: bool
    layers: int = 0

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"Llama 3 {self.size} {'training' if self.training else 'decode'}, {self.shape[0]}×{self.shape[1]}"

    @cached_property
    def mesh(self) -> Mesh:
        """Compile-only devices."""
        return topology_mesh(f"v5e:{self.shape[0]}x{self.shape[1]}", self.shape, ("fsdp", "tp"))

    @cached_property
    def config(self) -> Any:
        """The model's, with as many layers as asked for."""
        whole = replace(SIZES[self.size](), remat_config=llama.RematConfig.DECODER)
        return replace(whole, num_layers=self.layers or whole.num_layers)

    @property
    def donated(self) -> tuple[int, ...]:
        """Argument numbers: parameters and moments, or the cache."""
        return (0, 1) if self.training else (3,)

    def model(self, annotated: bool) -> Any:
        """Abstract, with tunix's shardings or without."""
        theirs = llama.ShardingConfig.get_default_sharding(is_sampling=not self.training)
        config = replace(self.config, shd_config=theirs) if annotated else unannotated(self.config)
        with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh):
            return nnx.eval_shape(lambda: llama.Llama3(config, rngs=nnx.Rngs(0)))

    def workload(self, annotated: bool = False) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The step and its arguments."""
        fun, state = planner.functional(self.model(annotated), lambda model, *args: model(*args))
        state = jax.tree.map(half, state)
        if not self.training:
            token, place, cache, mask = jax.eval_shape(partial(decode_arguments, self.config, BATCH, CONTEXT))
            return fun, (state, token, place, jax.tree.map(half, cache), mask)
        tokens = jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)
        return partial(train, fun), (state, jax.eval_shape(OPTIMISER.init, state), tokens)

    def specs(self, annotated: bool) -> Any:
        """The spec that tunix gives each parameter, without entries that do not divide their dims."""
        state = nnx.split(self.model(annotated=True))[1]
        given = jax.tree.leaves(nnx.get_partition_spec(state), is_leaf=lambda x: isinstance(x, PartitionSpec))
        fitted = [fitting(self.mesh, x.shape, spec) for x, spec in zip(jax.tree.leaves(state), given, strict=True)]
        return jax.tree.unflatten(jax.tree.structure(self.workload(annotated)[1][0]), fitted)

    def shardings(self, annotated: bool) -> tuple[Any, ...]:
        """Specs of the arguments: of parameters and moments, and of tunix's own program batch and cache too."""
        given, args = self.specs(annotated), self.workload(annotated)[1]
        if self.training:
            adam, *rest = args[1]
            moments = (adam._replace(count=PartitionSpec(), mu=given, nu=given), *rest)
            return given, moments, PartitionSpec("fsdp") if annotated else None
        if not annotated:
            return given, *[None] * 4
        batch = PartitionSpec("fsdp")
        return given, batch, batch, jax.tree.map(lambda x: CACHE if len(x.shape) > 1 else batch, args[3]), batch


def half(x: Any) -> Any:
    """Floats in bfloat16."""
    return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)


def train(fun: Callable[..., Any], state: Any, moments: Any, tokens: jax.Array) -> tuple[Any, Any, jax.Array]:
    """One AdamW step on next tokens [B, T]."""
    place = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), (len(tokens), LENGTH, LENGTH))

    def loss(state: Any) -> jax.Array:
        scores, _ = fun(state, tokens, place, None, mask)
        return optax.softmax_cross_entropy_with_integer_labels(scores[:, :-1].astype(jnp.float32), tokens[:, 1:]).mean()

    value, grads = jax.value_and_grad(loss)(state)
    updates, moments = OPTIMISER.update(grads, moments, state)
    return optax.apply_updates(state, updates), moments, value


def fitting(mesh: Mesh, shape: Sequence[int], spec: Sequence[Any]) -> PartitionSpec:
    """Without the entries that do not divide their dims."""
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    return PartitionSpec(*(e if e and n % mesh.shape[e] == 0 else None for e, n in zip(entries, shape)))


@contextmanager
def pinned_activations(mesh: Mesh) -> Iterator[None]:
    """What tunix says of activations counts, although this process sees a CPU."""

    def shard(x: jax.Array, spec: Sequence[Any]) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, fitting(mesh, x.shape, spec)))

    before, llama.shard = llama.shard, shard
    try:
        yield
    finally:
        llama.shard = before


def laid_out(mesh: Mesh, specs: Any) -> Any:
    """Formats that leave the layout to the compiler."""
    return jax.tree.map(lambda spec: Format(Layout.AUTO, NamedSharding(mesh, spec)), specs, is_leaf=is_spec)


def is_spec(x: Any) -> bool:
    """Whether a leaf of a tree of specs."""
    return isinstance(x, PartitionSpec)


def theirs(step: Step) -> float:
    """Seconds of tunix's own program along the compiled schedule."""
    fun, args = step.workload(annotated=True)
    given = step.shardings(annotated=True)
    kept = (*given[:2], PartitionSpec()) if step.training else (PartitionSpec("fsdp", None, "tp"), given[3])
    ins, outs = laid_out(step.mesh, given), laid_out(step.mesh, kept)
    made = jax.jit(fun, donate_argnums=step.donated, in_shardings=ins, out_shardings=outs)
    with pinned_activations(step.mesh):
        return timer_of(step.mesh).schedule(made.lower(*args).compile()).seconds


def plan(step: Step, shardings: Any = None) -> planner.Plan:
    """Ours, or what is best around given shardings."""
    fun, args = step.workload()
    limit = HEADROOM * LIMITS["v5e"]
    options = {"mesh": step.mesh, "donate_argnums": step.donated, "memory_limit": limit, "in_shardings": shardings}
    return planner.make_plan(fun, *args, known=False, **options)


def compiled(step: Step, made: planner.Plan, commanded: bool) -> float:
    """Seconds of a plan along the compiled schedule; what is not commanded is asked for by constraints."""
    fun, args = step.workload()
    program = trace(fun, args, {}, step.mesh, donate_argnums=step.donated)
    layout = Realised(made, program, step.mesh, commanded=commanded, auto_layouts=True)
    return timer_of(step.mesh).schedule(layout.jitted.lower(*args).compile()).seconds


def row(step: Step, compiling: bool) -> Iterator[str]:
    """Predicted, then compiled seconds: ours, the rival at its best, and tunix's own program."""
    plans: list[planner.Plan | str] = []
    for given in (None, step.shardings(annotated=False)):
        try:
            plans.append(plan(step, given))
        except PlanError as error:
            plans.append(f"does not fit: {str(error)[:80]}")
        yield seconds(plans[-1].seconds) if isinstance(plans[-1], planner.Plan) else plans[-1]
    if not compiling:
        return
    for made, commanded in zip(plans, (True, False)):
        yield made if isinstance(made, str) else attempted(partial(compiled, step, made, commanded))
    yield attempted(lambda: theirs(step))


def main(
    only: Annotated[str, typer.Option(help="Words that the names of steps must have.")] = "",
    layers: Annotated[int, typer.Option(help="Layers of each model; 0 for all.")] = 0,
    compiling: Annotated[bool, typer.Option("--compile/--predict", help="Compiling takes long.")] = True,
) -> None:
    """Prints a line for each step."""
    columns = ("ours", "tunix, rest planned", "ours, compiled", "tunix, rest planned, compiled", "tunix, compiled")
    made = table(f"tunix's ShardingConfig beside the plan, TPU v5e, {layers or 'all'} layers", "step", *columns)
    console = Console(width=160)
    for training, size, shape in product((False, True), SIZES, MESHES):
        step = Step(size, shape, training, layers)
        if all(word in step.name for word in only.split()):
            line: list[str] = []
            for cell in row(step, compiling):
                line.append(cell)
                console.print(step.name, *line, markup=False)
            made.add_row(step.name, *line)
    console.print(made)


if __name__ == "__main__":
    typer.run(main)
