"""The hand-written `ShardingConfig` of tunix beside the plan, in one cost model: `python -m benchmarks.zoo.rivals`.

It lays every parameter over two mesh axes, fsdp and tp, in one way to generate and in another to train. Here the
parameters are pinned to just that and everything else is left to the planner, which favours the rival: its cache and
activations lie where they cost least. A step is planned on TPU v5e in float32, as tunix keeps its weights.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import typer
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from rich.console import Console
from rich.table import Table
from tunix.models.llama3 import model as llama  # pyright: ignore[reportMissingImports]

import planner
from benchmarks.zoo.tunix import BATCH, CONTEXT, decode_arguments, unannotated
from planner.units import seconds

SIZES = {"8B": llama.ModelConfig.llama3p1_8b, "70B": llama.ModelConfig.llama3_70b}
MESHES = ((4, 4), (8, 8))
LENGTH = 256


def specs(config: Any, mesh: AbstractMesh, sampling: bool) -> list[PartitionSpec]:
    """The spec that tunix gives each parameter."""
    theirs = llama.ShardingConfig.get_default_sharding(is_sampling=sampling)
    with jax.sharding.use_abstract_mesh(mesh):
        model = nnx.eval_shape(lambda: llama.Llama3(replace(config, shd_config=theirs), rngs=nnx.Rngs(0)))
    state = nnx.split(model)[1]
    given = jax.tree.leaves(nnx.get_partition_spec(state), is_leaf=lambda x: isinstance(x, PartitionSpec))
    return [_fitting(mesh, x.shape, spec) for x, spec in zip(jax.tree.leaves(state), given, strict=True)]


def _fitting(mesh: AbstractMesh, shape: Sequence[int], spec: PartitionSpec) -> PartitionSpec:
    """Without the entries that do not divide their dims."""
    entries = [*spec, *[None] * (len(shape) - len(spec))]
    return PartitionSpec(*(e if e and n % mesh.shape[e] == 0 else None for e, n in zip(entries, shape)))


def workload(config: Any, training: bool) -> tuple[Any, tuple[Any, ...], tuple[int, ...]]:
    """A decode step with its cache, or the loss and gradient of a batch; and what is donated."""
    fun, state = planner.functional(
        nnx.eval_shape(lambda: llama.Llama3(unannotated(config), rngs=nnx.Rngs(0))), lambda m, *args: m(*args)
    )
    if not training:
        args = jax.eval_shape(partial(decode_arguments, config, BATCH, CONTEXT))
        return fun, (state, *args), (3,)

    def slope(state: Any, tokens: jax.Array) -> Any:
        place = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
        mask = jnp.broadcast_to(jnp.tril(jnp.ones((LENGTH, LENGTH), bool)), (len(tokens), LENGTH, LENGTH))

        def loss(state: Any) -> jax.Array:
            scores, _ = fun(state, tokens, place, None, mask)
            likely = jnp.take_along_axis(jax.nn.log_softmax(scores[:, :-1]), tokens[:, 1:, None], -1)
            return -jnp.mean(likely)

        grads = jax.grad(loss)(state)
        return jax.tree.map(lambda w, g: w - 1e-3 * g, state, grads)

    return slope, (state, jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)), (0,)


def row(size: str, shape: tuple[int, int], layers: int, training: bool) -> tuple[str, ...]:
    """Predicted seconds of both."""
    config = replace(SIZES[size](), num_layers=layers)
    mesh = AbstractMesh(shape, ("fsdp", "tp"), axis_types=(AxisType.Auto,) * 2)
    fun, args, donated = workload(config, training)
    make = partial(planner.make_plan, fun, *args, mesh=mesh, machine="tpu-v5e", donate_argnums=donated, known=False)
    given = jax.tree.unflatten(jax.tree.structure(args[0]), specs(config, mesh, sampling=not training))
    pinned = (given, *[None] * (len(args) - 1))
    ours, theirs = make(), make(in_shardings=pinned)
    times = [seconds(plan.seconds) for plan in (theirs, ours)]
    kind = "training" if training else "decode"
    return f"Llama 3 {size} {kind}", f"{shape[0]}×{shape[1]}", *times, f"{theirs.seconds / ours.seconds:.2f}"


def main(layers: Annotated[int, typer.Option(help="Layers of each model.")] = 2) -> None:
    """Prints a line for each model, mesh and kind of step."""
    table = Table(title=f"tunix's ShardingConfig beside the plan, {layers} layers on TPU v5e", title_justify="left")
    for name in ("step", "mesh", "tunix", "ours", "ratio"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for training in (False, True):
        for size in SIZES:
            for shape in MESHES:
                table.add_row(*row(size, shape, layers, training))
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
