"""`meshplan audit`: compiles a plan's program, or a workload with shardings of its own, and gives the account."""

import inspect
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
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


def account(
    load: Callable[[str], Any],
    what: str,
    of: str | None,
    topology: str | None,
    axes: AbstractMesh | None,
    donate: Sequence[str],
    tolerance: float,
) -> Audit:
    """The account of a plan file with its workload `of`, or of the workload `what` without a plan.

    Args:
        load: Loads a workload by name; it may ask for the mesh in context.
        what: A plan file, or the name of a workload.
        of: The name of a plan's workload.
        topology: TPUs to compile for; None for simulated devices of the CPU.
        axes: The mesh, where there is no plan.
        donate: Names of donated arguments.
        tolerance: As in `planner.audit`.
    """
    is_file = of is not None or what.endswith(".json") or os.path.exists(what)
    plan = Plan.load(what) if is_file else None
    if plan is not None and of is None:
        raise AuditError(f"{what} says how {plan.function} is laid out: name the function too, --workload MODULE:NAME")
    sizes = dict(axes.shape) if axes is not None else dict(plan.mesh) if plan is not None else {}
    mesh = mesh_for(topology, sizes)
    with jax.set_mesh(mesh):
        fun, args = load(of or what)
        named: dict[str, Any] = {"donate_argnames": tuple(donate)} if donate else {}
        _check(fun, donate)
        if plan is None:
            compiled = jax.jit(fun, **named).lower(*args).compile()
            return audit(None, compiled, mesh, _machine(topology), tolerance)
        planned = autoshard(fun, mesh=mesh, plan=plan, **named)
        return audit(plan, planned.lower(*args).compile(), mesh, _machine(topology), tolerance)


def _machine(topology: str | None) -> str | None:
    return None if topology is None else MACHINES[parse(topology)[0]]


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
