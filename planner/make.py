"""make_plan: the stages one after the other, timed. The one place that reads the clock."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from planner import stages
from planner.cost.hardware import Machine, machine_named, machine_of
from planner.cost.model import CostModel
from planner.errors import MeshError, PlanError
from planner.plan import Plan
from planner.question import Question
from planner.solve import BACKENDS, ready, solve
from planner.stages import Progress, Setting
from planner.trace import Program, auto_mesh, trace

LARGEST_GROWTH = 64


def make_plan(
    fun: Callable,
    *args: Any,
    mesh: Mesh | AbstractMesh | None = None,
    machine: str | Machine | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    memory_limit: float | None = None,
    known: bool = True,
    work: float = 1.0,
    backend: str = "highs",
    cost_model: CostModel | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Plans a function for a mesh: no devices, no weights.

    Args:
        fun: Any function that `jax.jit` takes.
        *args: Its arguments, arrays or `jax.ShapeDtypeStruct`s.
        mesh: A Mesh of any devices or an AbstractMesh; by default the mesh in context.
        machine: A preset's name (`meshplan machines`), a machine file (`Machine.load`) or a Machine; by default that
            of the mesh's devices.
        in_shardings: Specs that arguments must have, a pytree prefix as in `jax.jit`; None leaves a value open.
        out_shardings: Likewise for results.
        memory_limit: Bytes per chip that may be used; by default all that the chip lets programs have.
        known: Whether to score the known layouts too, and to start from them.
        work: Scales the solver's work limit, which is deterministic: nodes, never seconds.
        backend: What solves integer programs, "highs" or "cp-sat". Same plans but for ties, checked the same way.
        cost_model: Seconds of local work and of collectives (`planner.cost.model.CostModel`); by default the roofline
            of the machine.
        progress: Called with a stage's name, the best seconds so far and the proven bound.
        **options: static_argnums, static_argnames, donate_argnums, donate_argnames as in `jax.jit`; trips and weights
            as in `autoshard`.

    Returns:
        The plan, with `timings` of its stages.

    Raises:
        PlanError: One of planner.errors, saying what, where and what to do.
    """
    setting = replace(make_setting(mesh, machine, memory_limit, work), prices=cost_model, backend=_known(backend))
    clock = _Clock(progress)
    with clock("trace"):
        program = trace(fun, args, {}, setting.mesh, **options)
    return plan_program(program, setting, in_shardings, out_shardings, known, clock, function_name(fun))


def _known(backend: str) -> str:
    if backend not in BACKENDS:
        raise PlanError(f"no solver {backend!r}; there are {' and '.join(BACKENDS)}")
    return backend


def make_setting(
    mesh: Any, machine: str | Machine | None, memory_limit: float | None = None, work: float = 1.0
) -> Setting:
    """What to plan for, with everything that was left out taken from the context and the mesh's devices."""
    mesh = auto_mesh(mesh if mesh is not None else mesh_in_context())
    hardware = machine_of(mesh) if machine is None else machine_named(machine)
    limit = hardware.chip.usable_bytes if memory_limit is None else memory_limit
    return Setting(mesh, hardware, limit, work)


def mesh_in_context() -> Any:
    """The mesh of `jax.set_mesh`. Raises MeshError where there is none."""
    abstract = jax.sharding.get_abstract_mesh()
    if abstract.empty:
        raise MeshError("no mesh: pass mesh=jax.make_mesh(...) or an AbstractMesh, or enter `with jax.set_mesh(mesh):`")
    try:
        mesh = jax.sharding.get_mesh()
    except ValueError:  # inside of a jit JAX does not tell the devices
        return abstract
    return abstract if mesh.empty else mesh


def function_name(fun: Callable) -> str:
    """A name to call the function by."""
    return (getattr(fun, "__qualname__", None) or type(fun).__name__).rsplit("<locals>.", 1)[-1]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Python does not look for cycles meanwhile: among the many objects of a large program that takes long."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def plan_program(
    program: Program, setting: Setting, ins: Any, outs: Any, known: bool, clock: "_Clock", name: str
) -> Plan:
    """Graph, integer program, known layouts, solution, plan."""
    with clock("graph"), _undisturbed():
        graph = stages.graph_of(program, setting, ins, outs)
    with clock("formulate"), _undisturbed():
        formulation = stages.formulation_of(program, graph, setting)
    with clock("presolve"), _undisturbed():
        made = ready(formulation.problem)
    with clock("known layouts"):
        scored = stages.known_layouts(formulation, made, setting.work) if known else ()
    with clock("solve"):
        solution = stages.solved(made, [s for _, s in scored], setting, clock.progress)
    if solution.status == "infeasible":
        raise stages.explain_misfit(formulation, solution, smallest_mesh(program, setting, ins, outs), setting)
    with clock("order"), _undisturbed():
        solution, ordered = stages.with_orders(formulation, made, solution, setting)
    with clock("write"), _undisturbed():
        plan = stages.plan_of(program, formulation, solution, [k for k, _ in scored], setting, name, ordered)
    plan._timings.update(clock.seconds)
    plan._question = Question(program, setting, ins, outs, name, solution.choice)
    return plan


def smallest_mesh(program: Program, setting: Setting, ins: Any, outs: Any) -> str:
    """A sentence on the smallest mesh that fits, among those with the first axis doubled again and again."""
    names, sizes = setting.shape.names, setting.shape.sizes
    growth = 2
    while growth <= LARGEST_GROWTH:
        wider = (sizes[0] * growth, *sizes[1:])
        larger = replace(setting, mesh=auto_mesh(AbstractMesh(wider, names)))
        if _fits(program, larger, ins, outs):
            return f"The smallest mesh that fits, widening {names[0]!r}: {larger.shape}."
        growth *= 2
    return f"No {names[0]!r} up to {LARGEST_GROWTH} times wider fits: use smaller shapes, remat, or a larger chip."


def _fits(program: Program, setting: Setting, ins: Any, outs: Any) -> bool:
    """Whether some plan fits; an axis that divides nothing and the user's specs on it rule a mesh out."""
    try:
        formulation = stages.formulation_of(program, stages.graph_of(program, setting, ins, outs), setting)
    except PlanError:
        return False
    return solve(formulation.problem, work=setting.work).status != "infeasible"


class _Clock:
    """Seconds of each stage."""

    def __init__(self, progress: Progress | None = None):
        self.seconds: dict[str, float] = {}
        self.progress = progress

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        if self.progress:
            self.progress(stage, float("inf"), 0.0)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
