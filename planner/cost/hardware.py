"""Which machine is meant: by name, by file, or by the devices of a mesh."""

from collections.abc import Mapping
from pathlib import Path as File

from jax.sharding import AbstractMesh, Mesh

from planner.cost.fabric import Fabric as Fabric
from planner.cost.fabric import Link as Link
from planner.cost.machine import PARSERS, REMEDY
from planner.cost.machine import Chip as Chip
from planner.cost.machine import Machine as Machine
from planner.cost.presets import PRESETS as PRESETS
from planner.cost.torus import torus_spans as torus_spans
from planner.errors import UnknownMachineError


def machine_named(machine: "str | Machine") -> Machine:
    """A preset by name, a machine from a file (`Machine.load`), or the machine itself.

    Raises:
        UnknownMachineError: The name is neither a preset's nor a file's; says which there are.
        MachineFileError: The file is damaged.
    """
    if isinstance(machine, Machine):
        return machine
    if File(machine).suffix in PARSERS:
        return Machine.load(machine)
    if machine not in PRESETS:
        raise UnknownMachineError(
            f"no machine {machine!r}; presets are {', '.join(PRESETS)}; or pass a planner.Machine or a"
            f" {' or '.join(PARSERS)} file: {REMEDY}"
        )
    return PRESETS[machine]


def machine_of(mesh: Mesh | AbstractMesh) -> Machine:
    """The preset of a mesh's devices. Raises UnknownMachineError for devices without one, and for an AbstractMesh."""
    if isinstance(mesh, AbstractMesh):
        raise UnknownMachineError(f"an AbstractMesh has no devices: name a machine, one of {', '.join(PRESETS)}")
    device = mesh.devices.flat[0]
    kind = f"{device.platform} {device.device_kind}".lower()
    for name, sign in _SIGNS.items():
        if sign in kind:
            return PRESETS[name]
    raise UnknownMachineError(
        f"no preset for devices of kind {device.device_kind!r}: pass machine=planner.Machine(...)"
    )


_SIGNS: Mapping[str, str] = {
    "tpu-v3": "tpu v3",
    "tpu-v5e": "v5 lite",
    "tpu-v5p": "tpu v5",
    "tpu-v6e": "v6 lite",
    "tpu-v4": "tpu v4",
    "a100": "a100",
    "h200": "h200",
    "h100": "h100",
    "b200": "b200",
    "cpu": "cpu",
}
