"""What a TPU compiler is told so that it runs collectives beside work, as it would not of itself (libtpu 0.0.42).

One permute at a time: it starts several otherwise, and waits for them all before the products that should hide them.
On v4, gathers and exchanges in two halves, a start and an end: otherwise nothing runs beside them. On v5e gathers come
so of themselves and exchanges cannot; v5p and v6e take no notice. What arrives early is held longer. On v5e and v6e
gathers of up to 16 MiB, over two torus axes and 64 chips or more, become all_reduces, unless they are told to stay.
"""

from collections.abc import Mapping

from jax.sharding import AbstractMesh, Mesh

from planner.cost.hardware import Machine, machine_named, machine_of

ONE_PERMUTE = {"xla_max_concurrent_async_collective_permutes": "1"}
GATHERS = {"xla_enable_async_all_gather": "true"}
STAY = {"xla_tpu_prefer_async_allgather_to_allreduce": "true"}
EXCHANGES = {"xla_tpu_enable_async_all_to_all": "true"}
TOLD: Mapping[str, Mapping[str, str]] = {
    "tpu-v4": ONE_PERMUTE | GATHERS | EXCHANGES,
    "tpu-v5e": ONE_PERMUTE | STAY,
    "tpu-v5p": ONE_PERMUTE,
    "tpu-v6e": ONE_PERMUTE | STAY,
}


def compiler_options(mesh: Mesh | AbstractMesh, machine: str | Machine | None = None) -> dict[str, str | bool]:
    """Options for `autoshard` or `jax.jit` that let collectives run beside work.

    Args:
        mesh: The mesh that is compiled for.
        machine: By default that of the mesh's devices.

    Returns:
        Options by name, for the version of the compiler that the module's first line names; none for machines whose
        compiler needs none, or is not known.
    """
    known = machine_of(mesh) if machine is None else machine_named(machine)
    return {**TOLD.get(known.name, {})}
