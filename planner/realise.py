"""A plan made real: the rewritten program under `jax.jit`, and its arguments where the plan wants them.

All axes are Auto inside of the program. Outside they are what the mesh in context says: where its axes are Explicit,
values enter and leave with their shardings in their types.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import jax
from jax.core import Tracer
from jax.experimental.layout import Format, Layout
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from passes.collective_matmul import rings
from passes.constrain import constrain
from passes.jaxpr import as_fun
from planner.errors import MeshError
from planner.plan import Plan, Value
from planner.regions import regions_of
from planner.sharding import to_spec
from planner.trace import Program, auto_mesh

log = logging.getLogger("planner")


@dataclass(frozen=True)
class Realised:
    """A plan, and functions of the program's arguments that follow it.

    Attributes:
        mesh: Its axes are Auto or Explicit as values around a call see them (see `surrounding`).
        compiler_options: Of `jax.jit`.
        commanded: Whether runs of equations with collectives are computed on shards (`planner.regions`) rather than
            asked for by constraints alone.
        auto_layouts: Whether the compiler chooses how arguments and results lie in memory.
    """

    plan: Plan
    program: Program
    mesh: Mesh | AbstractMesh
    compiler_options: Mapping[str, Any] | None = None
    commanded: bool = True
    auto_layouts: bool = False

    def __call__(self, *args: Any) -> Any:
        """Runs on arrays, wherever they are; traces on tracers."""
        if any(isinstance(x, Tracer) for x in jax.tree.leaves(args)):
            return self.inside(*args)
        return (self._compiled if self.auto_layouts else self.jitted)(*self.put(args))

    def put(self, args: Any) -> Any:
        """Arrays where the plan wants them and, with `auto_layouts`, as the compiler wants them to lie."""
        return self._map(_put, args, self._formats)

    @cached_property
    def _compiled(self) -> Any:
        args = [jax.ShapeDtypeStruct(v.shape, v.dtype, weak_type=v.weak_type) for v in self.program.closed.in_avals]
        return self.jitted.lower(*in_order(self.program, args)).compile()

    @cached_property
    def _formats(self) -> Sequence[Any]:
        """Where each argument goes: a sharding, with a layout if the compiler chooses."""
        return jax.tree.leaves(self._compiled.input_formats) if self.auto_layouts else self._wanted

    @cached_property
    def _wanted(self) -> Sequence[NamedSharding]:
        return self._shardings(self.plan.arguments)

    @cached_property
    def jitted(self) -> Any:
        """Under `jax.jit` with the plan's shardings and the user's donations."""
        if isinstance(self.mesh, AbstractMesh):
            raise MeshError("an AbstractMesh can be planned for but has no devices to run on: pass a Mesh")
        ins = in_order(self.program, self._laid_out(self.plan.arguments))
        outs = jax.tree.unflatten(self.program.out_tree, self._laid_out(self.plan.results))
        donated = map(jax.tree.leaves, in_order(self.program, self.program.donated))
        given = tuple(i for i, leaves in enumerate(donated) if leaves and all(leaves))
        options = dict(self.compiler_options) if self.compiler_options else None
        return jax.jit(
            self._planned, in_shardings=ins, out_shardings=outs, donate_argnums=given, compiler_options=options
        )

    @cached_property
    def inside(self) -> Callable[..., Any]:
        """As part of another program, also under `jax.grad`: what comes in another sharding is moved."""
        if explicit(self.mesh):
            jitted = jax.jit(self._planned)
            return lambda *args: jitted(*self._map(lambda x, s, _: jax.sharding.reshard(x, s.spec), args))

        def constrained(*args: Any) -> Any:
            results = self._planned(*self._map(_constrain, args))
            flat = map(jax.lax.with_sharding_constraint, jax.tree.leaves(results), self._shardings(self.plan.results))
            return jax.tree.unflatten(self.program.out_tree, list(flat))

        return jax.jit(constrained)

    @cached_property
    def _planned(self) -> Callable[..., Any]:
        rewritten = self._rewritten()

        def planned(*args: Any) -> Any:
            return jax.tree.unflatten(self.program.out_tree, rewritten(*jax.tree.leaves(args)))

        planned.__name__ = self.plan.function.rsplit(".", 1)[-1].strip("<>")
        return planned

    def _rewritten(self) -> Callable[..., Any]:
        """The rewritten program on flat arguments."""
        auto, plan = auto_mesh(self.mesh), self.plan
        with jax.sharding.use_abstract_mesh(getattr(auto, "abstract_mesh", auto)):
            instead = rings(self.program.closed, plan.rings(), auto)
            borders = plan.borders("inputs"), plan.borders("outputs")
            regions = regions_of(self.program, plan, self.mesh) if self.commanded else {}
            closed = constrain(self.program.closed, plan.pins(), auto, *borders, instead, regions)
        if not explicit(self.mesh):
            return as_fun(closed)
        return jax.sharding.auto_axes(as_fun(closed), out_sharding=[to_spec(v.spec) for v in plan.results])

    def _shardings(self, values: Sequence[Value]) -> list[NamedSharding]:
        return [NamedSharding(self.mesh, to_spec(v.spec)) for v in values]

    def _laid_out(self, values: Sequence[Value]) -> list[Any]:
        shardings = self._shardings(values)
        return [Format(Layout.AUTO, s) for s in shardings] if self.auto_layouts else shardings

    def _map(self, f: Callable[[Any, Any, str], Any], args: Any, wanted: Sequence[Any] | None = None) -> Any:
        """Applies `f(leaf, planned sharding or format, name)` to every leaf of the arguments."""
        leaves, tree = jax.tree.flatten(args)
        names = [v.name for v in self.plan.arguments]
        return jax.tree.unflatten(tree, [f(*xs) for xs in zip(leaves, wanted or self._wanted, names)])


def surrounding(mesh: Mesh | AbstractMesh) -> Any:
    """The mesh as values around a call see it: its axes are Explicit where those of the mesh in context are."""
    auto, context = auto_mesh(mesh), jax.sharding.get_abstract_mesh()
    same = context.axis_names == auto.axis_names and explicit(context)
    return auto.update(axis_types=context.axis_types) if same else auto


def explicit(mesh: Any) -> bool:
    """Whether types on this mesh carry shardings."""
    return AxisType.Explicit in mesh.axis_types


def in_order(program: Program, leaves: Sequence[Any]) -> tuple[Any, ...]:
    """Leaves as the arguments of a call: those by position, then those by name."""
    args, kwargs = jax.tree.unflatten(program.in_tree, leaves)
    return (*args, *(kwargs[name] for name in sorted(kwargs)))


def _constrain(x: Any, sharding: NamedSharding, name: str) -> Any:
    return jax.lax.with_sharding_constraint(x, sharding)


def _put(x: Any, wanted: Any, name: str) -> Any:
    """An array in its planned sharding or format. What had to move is logged: give it there to save the copy."""
    if not isinstance(x, jax.Array):
        return jax.device_put(x, wanted)
    sharding, array = cast(Any, wanted.sharding if isinstance(wanted, Format) else wanted), cast(Any, x)
    there = x.sharding.is_equivalent_to(sharding, x.ndim)
    lies = sharding is wanted or array.format.layout == wanted.layout
    if there and lies and _typed(x.sharding) == _typed(sharding):
        return x
    if not there and len(x.sharding.device_set) > 1:
        log.info("%s is resharded from %s to %s before the call", name, x.sharding, sharding.spec)
    return jax.device_put(x, wanted)


def _typed(sharding: Any) -> bool:
    return isinstance(sharding, NamedSharding) and explicit(sharding.mesh)
