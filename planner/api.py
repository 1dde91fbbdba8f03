"""autoshard: plan a function, rewrite it, hand it to `jax.jit`."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import update_wrapper
from types import MethodType
from typing import Any

import jax
from jax.core import Tracer
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from passes.constrain import constrain
from passes.jaxpr import as_fun, show, source, walk
from planner.cost.hardware import Machine
from planner.errors import MeshError, PlanError, PlanMismatchError
from planner.make import _Clock, function_name, make_setting, mesh_in_context, plan_program
from planner.plan import Plan
from planner.sharding import to_spec
from planner.trace import Program, auto_mesh, trace

log = logging.getLogger("planner")


def autoshard(
    fun: Callable | None = None,
    /,
    *,
    mesh: Mesh | AbstractMesh | None = None,
    machine: str | Machine | None = None,
    plan: Plan | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    static_argnums: int | Sequence[int] | None = None,
    static_argnames: str | Sequence[str] | None = None,
    donate_argnums: int | Sequence[int] | None = None,
    donate_argnames: str | Sequence[str] | None = None,
    compiler_options: Mapping[str, Any] | None = None,
    memory_limit: float | None = None,
    work: float = 1.0,
) -> Any:
    """`jax.jit` that decides the shardings: a decorator, bare or with keywords, or a call.

    Args:
        fun: The function; left out when used as a decorator with keywords.
        mesh: A Mesh of any devices, also compile-only ones; an AbstractMesh plans but does not run. By default the mesh
            in context at the first call.
        machine: A preset's name or a Machine; by default that of the mesh's devices.
        plan: A plan to replay instead of solving.
        in_shardings: Specs that arguments must have, pytree prefixes as in `jax.jit`; None leaves them to the planner.
        out_shardings: Likewise for results.
        static_argnums: As in `jax.jit`, and so the next four.
        static_argnames: See `static_argnums`.
        donate_argnums: Donated state keeps one spec, and its result takes its place.
        donate_argnames: See `donate_argnums`.
        compiler_options: Passed on to the compiler.
        memory_limit: Bytes per chip that may be used; by default all of the chip's memory.
        work: Scales the solver's deterministic work limit.

    Returns:
        A `Planned` function, or a decorator that makes one.
    """
    jit_options = {
        "static_argnums": static_argnums,
        "static_argnames": static_argnames,
        "donate_argnums": donate_argnums,
        "donate_argnames": donate_argnames,
    }
    rest = {k: v for k, v in jit_options.items() if v is not None}

    def wrap(fun: Callable) -> Planned:
        return Planned(
            fun, mesh, machine, plan, in_shardings, out_shardings, rest, compiler_options, memory_limit, work
        )

    return wrap if fun is None else wrap(fun)


@dataclass(frozen=True)
class _Ready:
    """A plan and the jitted function that follows it, for one set of shapes."""

    plan: Plan
    program: Program
    jitted: Any


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
    _ready: dict[Any, _Ready] = field(default_factory=dict)
    _plans: dict[Any, tuple[Plan, Program]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        update_wrapper(self, self.fun, updated=())  # fields of a callable object are no fields of ours
        self._statics = _statics(self.fun, self.options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Plans on first use per shapes, moves arguments into their planned shardings, runs."""
        args = self._positional(args, kwargs)
        ready = self._prepare(args)
        dynamic = self._dynamic(args)
        return ready.jitted(*self._placed(dynamic, ready.plan))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A planned method: `self` is its first argument, as in `jax.jit`."""
        return self if instance is None else MethodType(self, instance)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """The plan for arguments of these shapes. Needs no devices: AbstractMesh and ShapeDtypeStructs will do."""
        return self._planned(self._positional(args, kwargs))[0]

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """The rewritten function as `jax.stages.Traced`."""
        args = self._positional(args, kwargs)
        return self._prepare(args).jitted.trace(*self._abstract(args))

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """The rewritten function as `jax.stages.Lowered`; its `compile()` gives a `jax.stages.Compiled`."""
        return self.trace(*args, **kwargs).lower()

    def _abstract(self, args: Sequence[Any]) -> tuple[Any, ...]:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "dtype") else x, self._dynamic(args)
        )

    def _positional(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """All arguments by position, defaults left out as JAX leaves them."""
        if not kwargs:
            return tuple(args)
        bound = inspect.signature(self.fun).bind(*args, **kwargs)
        if bound.kwargs:
            raise PlanError(
                f"{function_name(self.fun)}: keyword-only arguments {sorted(bound.kwargs)} cannot be sharded; "
                f"make them positional"
            )
        return bound.args

    def _dynamic(self, args: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(x for i, x in enumerate(args) if i not in self._statics)

    def _mesh(self) -> Any:
        return self.mesh if self.mesh is not None else mesh_in_context()

    def _key(self, args: Sequence[Any]) -> Any:
        leaves, tree = jax.tree.flatten(self._dynamic(args))
        shapes = tuple(
            (jax.numpy.shape(x), str(jax.numpy.result_type(x)), getattr(x, "weak_type", None)) for x in leaves
        )
        return tree, shapes, tuple(x for i, x in enumerate(args) if i in self._statics), self._mesh()

    def _planned(self, args: Sequence[Any]) -> tuple[Plan, Program]:
        key = self._key(args)
        if key not in self._plans:
            self._plans[key] = self._make(args)
        return self._plans[key]

    def _make(self, args: Sequence[Any]) -> tuple[Plan, Program]:
        mesh, clock = self._mesh(), _Clock()
        with clock("trace"):
            program = trace(self.fun, args, {}, mesh, **self.options)
        if self.given is not None:
            check_matches(self.given, program, mesh)
            self.given._trees = (program.in_tree, program.out_tree)
            return self.given, program
        setting = make_setting(mesh, self.machine, self.memory_limit, self.work)
        name = function_name(self.fun)
        return plan_program(program, setting, self.in_shardings, self.out_shardings, False, clock, name), program

    def _prepare(self, args: Sequence[Any]) -> _Ready:
        key = self._key(args)
        if key not in self._ready:
            plan, program = self._planned(args)
            jitted = planned_jit(plan, program, concrete(self._mesh()), self.compiler_options)
            self._ready[key] = _Ready(plan, program, jitted)
        return self._ready[key]

    def _placed(self, args: Sequence[Any], plan: Plan) -> tuple[Any, ...]:
        """Arguments in their planned shardings. What had to move is logged: give it there to save the copy."""
        leaves, tree = jax.tree.flatten(args)
        mesh = concrete(self._mesh())
        placed = [_put(x, NamedSharding(mesh, to_spec(v.spec)), v.name) for x, v in zip(leaves, plan.arguments)]
        return jax.tree.unflatten(tree, placed)


def _put(x: Any, sharding: NamedSharding, name: str) -> Any:
    if isinstance(x, Tracer):
        return x
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
        return x
    if isinstance(x, jax.Array) and len(x.sharding.device_set) > 1:
        log.info("%s is resharded from %s to %s before the call", name, x.sharding, sharding.spec)
    return jax.device_put(x, sharding)


def concrete(mesh: Any) -> Mesh:
    """The mesh with Auto axes. Raises MeshError for one without devices."""
    if isinstance(mesh, AbstractMesh):
        raise MeshError("an AbstractMesh can be planned for but has no devices to run on: pass a Mesh")
    return auto_mesh(mesh)


def planned_jit(plan: Plan, program: Program, mesh: Mesh, compiler_options: Mapping[str, Any] | None = None) -> Any:
    """The program rewritten after its plan, under `jax.jit` with the plan's shardings and the user's donations."""
    pinned = constrain(program.closed, plan.pins(), mesh, plan.borders("inputs"), plan.borders("outputs"))
    rewritten = as_fun(pinned)

    def planned(*args: Any) -> Any:
        return jax.tree.unflatten(program.out_tree, rewritten(*jax.tree.leaves(args)))

    planned.__name__ = plan.function.rsplit(".", 1)[-1].strip("<>")
    ins = jax.tree.unflatten(program.in_tree, [NamedSharding(mesh, to_spec(v.spec)) for v in plan.arguments])[0]
    outs = jax.tree.unflatten(program.out_tree, [NamedSharding(mesh, to_spec(v.spec)) for v in plan.results])
    donated = jax.tree.unflatten(program.in_tree, program.donated)[0]
    given = tuple(i for i, arg in enumerate(donated) if jax.tree.leaves(arg) and all(jax.tree.leaves(arg)))
    options = dict(compiler_options) if compiler_options else None
    return jax.jit(planned, in_shardings=ins, out_shardings=outs, donate_argnums=given, compiler_options=options)


def check_matches(plan: Plan, program: Program, mesh: Any) -> None:
    """Raises PlanMismatchError, saying what differs, unless the plan is for this program on this mesh."""
    here = dict(zip(mesh.axis_names, mesh.shape.values()))
    if plan.mesh != here:
        raise PlanMismatchError(f"the plan is for mesh {plan.mesh}, this is {here}: plan again for this mesh")
    avals = [(n, tuple(v.aval.shape), str(v.aval.dtype)) for n, v in zip(program.names, program.closed.jaxpr.invars)]
    planned = [(v.name, v.shape, v.dtype) for v in plan.arguments]
    for now, then in zip(avals, planned):
        if now != then:
            raise PlanMismatchError(
                f"argument {now[0]} is {now[2]}{list(now[1])}, the plan has {then[0]} {then[2]}{list(then[1])}: "
                f"plan again"
            )
    if len(avals) != len(planned):
        raise PlanMismatchError(
            f"the function has {len(avals)} array arguments, the plan {len(planned)}: it is for another function"
        )
    if plan.program != program.fingerprint:
        raise PlanMismatchError(
            f"the plan is for another program ({plan.function}, fingerprint {plan.program}; this one is "
            f"{program.fingerprint}) with equal arguments: {_difference(plan, program)}; plan again"
        )


def _difference(plan: Plan, program: Program) -> str:
    here = {show(path): eqn for path, eqn in walk(program.closed)}
    for op in plan.operations:
        eqn = here.get(op.path)
        if op.primitive != "loop" and (eqn is None or eqn.primitive.name != op.primitive):
            now = f"{eqn.primitive.name} at {source(eqn)}" if eqn is not None else "nothing"
            return f"equation {op.path} was {op.primitive} at {op.source}, is {now}"
    return "an equation's params differ"


def _statics(fun: Callable, options: Mapping[str, Any]) -> frozenset[int]:
    """Positions of static arguments, from numbers and names."""
    nums, names = options.get("static_argnums", ()), options.get("static_argnames", ())
    nums = (nums,) if isinstance(nums, int) else tuple(nums)
    names = (names,) if isinstance(names, str) else tuple(names)
    if not nums and not names:
        return frozenset()
    parameters = list(inspect.signature(fun).parameters)
    return frozenset({n % len(parameters) for n in nums} | {parameters.index(name) for name in names})
