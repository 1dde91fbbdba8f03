"""`meshplan audit`: compiles a plan's program, or a workload with shardings of its own, and gives the account."""

import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from planner.api import autoshard
from planner.audit.account import audit
from planner.audit.record import Audit
from planner.audit.show import show as show
from planner.audit.topology import MACHINES, parse, topology_mesh
from planner.errors import AuditError
from planner.plan import Plan


@dataclass(frozen=True)
class Given:
    """How to compile.

    Attributes:
        topology: TPUs to compile for; None for simulated devices of the CPU.
        axes: The mesh, where there is no plan.
        donate: Names of donated arguments.
        tolerance: As in `planner.audit`.
        auto_layouts: As in `planner.autoshard`.
    """

    topology: str | None = None
    axes: AbstractMesh | None = None
    donate: Sequence[str] = ()
    tolerance: float = 0.01
    auto_layouts: bool = False

    @property
    def machine(self) -> str | None:
        """That of the topology."""
        return None if self.topology is None else MACHINES[parse(self.topology)[0]]


def account(load: Callable[[str], Any], what: str, of: str | None, given: Given) -> Audit:
    """The account of a plan file with its workload `of`, or of the workload `what` without a plan.

    Args:
        load: Loads a workload by name; it may ask for the mesh in context.
        what: A plan file, or the name of a workload.
        of: The name of a plan's workload.
        given: How to compile.
    """
    is_file = of is not None or what.endswith(".json") or os.path.exists(what)
    plan = Plan.load(what) if is_file else None
    if plan is not None and of is None:
        raise AuditError(f"{what} says how {plan.function} is laid out: name the function too, --workload MODULE:NAME")
    sizes = dict(given.axes.shape) if given.axes is not None else dict(plan.mesh) if plan is not None else {}
    mesh = mesh_for(given.topology, sizes)
    with jax.set_mesh(mesh):
        fun, args = load(of or what)
        _check(fun, given.donate)
        compiled = _lowered(fun, args, plan, mesh, given).compile()
        return audit(plan, compiled, mesh, given.machine, given.tolerance)


def _lowered(fun: Callable, args: Any, plan: Plan | None, mesh: Mesh, given: Given) -> Any:
    named: dict[str, Any] = {"donate_argnames": tuple(given.donate)} if given.donate else {}
    if plan is None:
        if given.auto_layouts:
            raise AuditError("--auto-layouts needs a plan; without one, the function's own in_shardings say it")
        return jax.jit(fun, **named).lower(*args)
    return autoshard(fun, mesh=mesh, plan=plan, auto_layouts=given.auto_layouts, **named).lower(*args)


def _check(fun: Any, donate: Sequence[str]) -> None:
    there = list(inspect.signature(fun).parameters)
    if strange := [name for name in donate if name not in there]:
        raise AuditError(f"--donate {strange[0]}: no such argument; the function has {', '.join(there)}")


def mesh_for(topology: str | None, sizes: dict[str, int]) -> Mesh:
    """Compile-only devices of a topology, else simulated ones of the CPU."""
    if topology is not None:
        return topology_mesh(topology, tuple(sizes.values()), tuple(sizes))
    if not sizes:
        raise AuditError("without --topology a workload needs --mesh, such as --mesh x=2,y=4")
    names, shape = tuple(sizes), tuple(sizes.values())
    return jax.make_mesh(shape, names, axis_types=(AxisType.Auto,) * len(names), devices=simulated(prod(shape)))


def simulated(count: int) -> Sequence[Any]:
    """Devices of the CPU, as many as asked for. They cannot become more once JAX has looked at them."""
    with suppress(RuntimeError):  # too late: then those that are there must do
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise AuditError(f"{len(devices)} CPU devices are too few: start with JAX_NUM_CPU_DEVICES={count}")
    return devices[:count]
