"""autoshard: plan a function, rewrite it, hand it to `jax.jit`."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from types import MethodType
from typing import Any, TypedDict, Unpack

import jax
from jax.sharding import AbstractMesh, Mesh

from planner.call import Call, call_of, static_of
from planner.cost.hardware import Machine
from planner.errors import PlanMismatchError
from planner.make import _Clock, function_name, make_setting, mesh_in_context, plan_program
from planner.match import check_matches, check_specs
from planner.plan import Plan
from planner.processes import agreed, spans_processes
from planner.realise import Realised, surrounding
from planner.trace import Program, trace, unsharded
from planner.user_specs import user_pins

log = logging.getLogger("planner")
SCALARS = (bool, int, float, complex)


class Options(TypedDict, total=False):
    """What `autoshard` is told about a function, by keyword.

    Attributes:
        static_argnums: As in `jax.jit`, and so the next three.
        static_argnames: See `static_argnums`.
        donate_argnums: Donated state keeps one spec, and its result takes its place.
        donate_argnames: See `donate_argnums`.
        trips: How often while loops run, each named by any part of its source line: `{"decode.py:31": 64}`.
        weights: How often each branch of a `cond` or `switch` is taken, of one call, named likewise; by default the
            worst one always.
    """

    static_argnums: int | Sequence[int] | None
    static_argnames: str | Sequence[str] | None
    donate_argnums: int | Sequence[int] | None
    donate_argnames: str | Sequence[str] | None
    trips: Mapping[str, float] | None
    weights: Mapping[str, Sequence[float]] | None


def autoshard(
    fun: Callable | None = None,
    /,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    machine: str | Machine | None = None,
    plan: Plan | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    compiler_options: Mapping[str, Any] | None = None,
    memory_limit: float | None = None,
    work: float = 1.0,
    auto_layouts: bool = False,
    **options: Unpack[Options],
) -> Any:
    """`jax.jit` that decides the shardings: a decorator, bare or with keywords, or a call.

    Args:
        fun: The function; left out when used as a decorator with keywords.
        mesh: Of any devices, also compile-only ones, or an AbstractMesh, which plans but does not run. By default the
            mesh in context at the first call.
        machine: A preset's name, a machine file or a Machine; by default that of the mesh's devices.
        plan: A plan to replay instead of solving.
        in_shardings: Specs that arguments must have, pytree prefixes as in `jax.jit`; None leaves them open.
        out_shardings: Likewise for results.
        compiler_options: Passed on to the compiler (`planner.compiler_options`).
        memory_limit: Bytes per chip that may be used; by default all of the chip's memory.
        work: Scales the solver's deterministic work limit.
        auto_layouts: Lets the compiler choose how arguments and results lie, which spares it copies (see `put`).
        **options: `Options`: static and donated arguments, trips of loops, weights of branches.

    Returns:
        A `Planned` function, or a decorator that makes one.
    """
    to_fun = _known(options)
    given = mesh, machine, plan, in_shardings, out_shardings, to_fun, compiler_options, memory_limit, work, auto_layouts
    return Planned(fun, *given) if fun is not None else lambda fun: Planned(fun, *given)


def _known(options: Options) -> dict[str, Any]:
    """Those that are given. Raises TypeError for one that there is not."""
    if strange := sorted(options.keys() - Options.__annotations__.keys()):
        raise TypeError(
            f"autoshard() has no {', '.join(strange)}; beside its own it takes {', '.join(Options.__annotations__)}"
        )
    return {k: v for k, v in options.items() if v is not None}


@dataclass(eq=False)
class Planned:
    """A function with a plan per set of argument shapes. Call it, or ask for `plan`, `trace`, `lower`."""

    fun: Callable
    mesh: Any
    machine: Any
    given: Plan | None
    in_shardings: Any
    out_shardings: Any
    options: Mapping[str, Any]
    compiler_options: Mapping[str, Any] | None
    memory_limit: float | None
    work: float
    auto_layouts: bool
    _ready: dict[Any, Realised] = field(default_factory=dict)
    _plans: dict[Any, tuple[Plan, Program]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        update_wrapper(self, self.fun, updated=())  # fields of a callable object are no fields of ours
        self._static = static_of(self.fun, self.options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Plans on first use per shapes, moves arguments into their planned shardings, runs."""
        call = self._call(args, kwargs)
        return self._realised(call)(*call.dynamic)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A planned method: `self` is its first argument, as in `jax.jit`."""
        return self if instance is None else MethodType(self, instance)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan for arguments of these shapes. Needs no devices: AbstractMesh and ShapeDtypeStructs will do."""
        return self._planned(self._call(args, kwargs))[0]

    def put(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The arguments, each moved to where a call wants it; a call with them moves nothing.

        With `auto_layouts` they come to lie as the compiler wants them; a call lays out again what comes otherwise.

        Static arguments are left out, and those by name come last, sorted.
        """
        call = self._call(args, kwargs)
        return self._realised(call).put(call.dynamic)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """The rewritten function as `jax.stages.Traced`. It takes what came by keyword last, sorted by name."""
        call = self._call(args, kwargs)
        return self._realised(call).jitted.trace(*unsharded(call.dynamic))

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """The rewritten function as `jax.stages.Lowered`; its `compile()` gives a `jax.stages.Compiled`."""
        return self.trace(*args, **kwargs).lower()

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        return call_of(self.fun, self._static, args, kwargs)

    def _mesh(self) -> Any:
        return self.mesh if self.mesh is not None else mesh_in_context()

    def _key(self, call: Call) -> Any:
        leaves, tree = jax.tree.flatten(call.dynamic)
        shapes = tuple(
            (jax.numpy.shape(x), str(jax.numpy.result_type(x)), getattr(x, "weak_type", isinstance(x, SCALARS)))
            for x in leaves
        )
        return tree, shapes, call.statics, self._mesh()

    def _planned(self, call: Call) -> tuple[Plan, Program]:
        key = self._key(call)
        if key not in self._plans:
            self._plans[key] = self._make(call)
        return self._plans[key]

    def _make(self, call: Call) -> tuple[Plan, Program]:
        mesh, clock = self._mesh(), _Clock()
        with clock("trace"):
            program = trace(self.fun, call.args, call.kwargs, mesh, **self.options)
        name = function_name(self.fun)

        def make() -> Plan:
            if self.given is not None:
                return self.given
            setting = make_setting(mesh, self.machine, self.memory_limit, self.work)
            return plan_program(program, setting, self.in_shardings, self.out_shardings, False, clock, name)

        if spans_processes(mesh):
            plan = agreed(make, lambda plan: self._check(plan, program, mesh))
        else:
            plan = make()
            if self.given is not None:
                self._check(plan, program, mesh)
        plan._trees = (program.in_tree, program.out_tree)
        for note in plan.notes if self.given is None else ():
            log.warning("%s: %s", name, note)
        return plan, program

    def _check(self, plan: Plan, program: Program, mesh: Any) -> None:
        """Raises PlanMismatchError unless the plan is for this program, and the one that was given if one was."""
        check_matches(plan, program, mesh)
        if self.given is None:
            return
        if plan != self.given:
            raise PlanMismatchError(
                f"this process was given plan {self.given.fingerprint}, process 0 plan {plan.fingerprint}: "
                f"give all processes the same plan"
            )
        check_specs(plan, user_pins(program, self.in_shardings, self.out_shardings, plan.mesh_shape))

    def _realised(self, call: Call) -> Realised:
        mesh = surrounding(self._mesh())
        key = (self._key(call), mesh)
        if key not in self._ready:
            plan, program = self._planned(call)
            self._ready[key] = Realised(plan, program, mesh, self.compiler_options, auto_layouts=self.auto_layouts)
        return self._ready[key]
