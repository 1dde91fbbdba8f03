"""Why not this spec here, and what would it cost: the same program solved again with one more constraint.

The integer program is made once and kept with the plan. With the constraint it is solved from the plan's own choice:
first as known layouts are, which mostly takes a moment and comes with a proven bound; then, where bound and answer are
too far apart to tell the cost of the constraint, as a plan is.
"""

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import AbstractMesh, PartitionSpec

from passes.jaxpr import show
from planner.cost.hardware import Machine
from planner.errors import PlanError
from planner.formulate import Formulation, shows
from planner.graph import Port
from planner.make import function_name, make_setting
from planner.match import check_matches
from planner.plan import Plan
from planner.question import Question
from planner.sharding import canonical, names_of, to_spec
from planner.solve import Solution, rivals, solve
from planner.trace import trace
from planner.user_specs import check_axes

SURE = 0.1  # of the cost of a constraint: how far apart answer and bound may be
WORK = 0.1  # of what a plan may take


@dataclass(frozen=True)
class Why:
    """What a spec would cost.

    Attributes:
        value: The value that is asked about.
        wanted: The spec that it would have; `planned` is the one that it has.
        plan: The plan as it is.
        other: The best plan with that spec; None where there is none, or none that fits.
        bound: Proven: no plan with that spec takes fewer seconds. Infinite where nothing fits.
        excess: Bytes per chip that are missing where nothing fits; `short` of them are proven to be.
        reason: Why no strategy shows the spec, if so.
    """

    value: str
    wanted: PartitionSpec
    planned: PartitionSpec
    plan: Plan
    other: Plan | None
    bound: float
    excess: float = 0.0
    short: float = 0.0
    reason: str = ""

    @property
    def seconds(self) -> float:
        """What the best plan found with that spec takes; infinite where none fits."""
        return np.inf if self.other is None else self.other.seconds

    def __str__(self) -> str:
        from planner.report import answered

        return answered(self)


def why(
    plan: Plan,
    value: str,
    spec: "PartitionSpec | str",
    fun: Callable | None = None,
    *args: Any,
    machine: str | Machine | None = None,
    in_shardings: Any = None,
    out_shardings: Any = None,
    **options: Any,
) -> Why:
    """Why a value does not have a spec: what the best plan would be in which it has.

    Args:
        plan: From `make_plan`, or from a file.
        value: An argument or `result 0` by the plan's name for it, or any part of it that no other has; or a part of an
            operation's source line, such as `layers.py:55`, or its path.
        spec: A PartitionSpec, or one as text: `P(None, ('x', 'y'))`. Entries `P.UNCONSTRAINED` leave a dim open; the
            order of axes within a dim is left open too.
        fun: The function, for a plan from a file; with `args` and `options` as given to `make_plan`.
        *args: Its arguments.
        machine: For a plan from a file whose machine is no preset.
        in_shardings: For a plan from a file that was made with some.
        out_shardings: Likewise.
        **options: As of `make_plan`.

    Returns:
        The answer; `print` it.

    Raises:
        PlanError: The plan comes from a file and no function is given, or is for another one; the value is none or
            several; the spec is none, or names axes that the mesh does not have.
    """
    question = plan._question
    if fun is not None:
        question = _question(plan, fun, args, machine, in_shardings, out_shardings, options)
    if question is None:
        raise PlanError("this plan comes from a file: give the function and its arguments too, as for make_plan")
    return _answered(question, plan, value, spec)


def _answered(question: Question, plan: Plan, value: str, spec: "PartitionSpec | str") -> Why:
    f = question.formulation
    name, port = find(f, plan, value)
    wanted = _checked(spec, f, name, port)
    planned = _planned(f, plan, name, port)
    mask = shows(f.strategies[port.node], port.result, wanted)
    if not mask.any():
        return Why(name, wanted, planned, plan, None, np.inf, reason=_reason(f, port, wanted))
    solution = asked(question, {port.node: mask}, plan.seconds)
    if solution.status == "infeasible":
        return Why(name, wanted, planned, plan, None, np.inf, solution.excess, solution.short)
    other = question.plan_of(solution)
    return Why(name, wanted, planned, plan, other, solution.bound)


def asked(question: Question, masks: dict[int, np.ndarray], seconds: float) -> Solution:
    """The best choice within masks, well enough to tell how much more than `seconds` it takes."""
    starts = [tuple(question.choice)] if question.choice else []
    if starts and all(mask[starts[0][n]] for n, mask in masks.items()):
        return solve(question.ready, starts=starts, work=WORK * question.setting.work)
    (first,) = rivals(question.ready, [masks], question.setting.work)
    if first.status == "infeasible" and (first.short or not np.isfinite(first.seconds)):
        return first
    if first.status != "infeasible" and first.seconds - first.bound <= SURE * abs(first.seconds - seconds):
        return first
    starts = [first.choice] if first.status != "infeasible" else []
    return solve(question.ready, within=masks, starts=starts, work=WORK * question.setting.work)


def _question(
    plan: Plan, fun: Callable, args: tuple, machine: Any, ins: Any, outs: Any, options: dict[str, Any]
) -> Question:
    """The question of a plan from a file."""
    mesh = AbstractMesh(tuple(plan.mesh.values()), tuple(plan.mesh))
    setting = make_setting(mesh, machine or plan.machine, plan.limit)
    program = trace(fun, args, {}, setting.mesh, **options)
    check_matches(plan, program, setting.mesh)
    return Question(program, setting, ins, outs, function_name(fun))


def find(f: Formulation, plan: Plan, value: str) -> tuple[str, Port]:
    """The one value of a program that goes by a name. Raises PlanError."""
    named = list(_named(f, plan))
    same = [(name, port) for name, port in named if value in (name, show(f.graph.nodes[port.node].path))]
    found = same or [(name, port) for name, port in named if value in name]
    ports = {port for _, port in found}
    if len(ports) == 1:
        return found[0]
    if not found:
        raise PlanError(
            f"there is no value {value!r}: name an argument, `result 0`, or a source line as `explain` does"
        )
    some = "\n".join(f"  {_path(f, port)}{name}" for name, port in found[:12])
    raise PlanError(f"{value!r} are {len(ports)} values; name one:\n{some}")


def _path(f: Formulation, port: Port) -> str:
    node = f.graph.nodes[port.node]
    return f"{show(node.path)}: " if node.role == "op" else ""


def _named(f: Formulation, plan: Plan) -> Iterator[tuple[str, Port]]:
    """Arguments, results, and what operations compute, by name; a sum that is left open where it is closed."""
    graph = f.graph
    yield from ((v.name, Port(n)) for v, n in zip(plan.arguments, graph.inputs))
    yield from ((v.name, Port(n)) for v, n in zip(plan.results, graph.outputs) if not v.place)
    homes = {e.source: Port(e.target) for e in graph.edges if graph.nodes[e.target].role == "value"}
    for n, node in enumerate(graph.nodes):
        if node.role == "op" and node.avals and node.avals[0].shape:
            yield f"{node.source} {node.name}", homes.get(Port(n), Port(n))


def _checked(spec: "PartitionSpec | str", f: Formulation, name: str, port: Port) -> PartitionSpec:
    wanted = spec_of(spec) if isinstance(spec, str) else spec
    check_axes(wanted, name, f.mesh)
    try:
        return canonical(wanted, len(f.graph.aval(port).shape))
    except ValueError as error:
        raise PlanError(f"{name}: {error}") from error


def spec_of(text: str) -> PartitionSpec:
    """The spec that a text such as `P(None, ('x', 'y'))` or `None, (x, y)` means. Raises PlanError."""
    inner = re.sub(r"^\s*(?:P|PartitionSpec)\s*\((.*)\)\s*$", r"\1", text, flags=re.DOTALL)
    try:
        tree = ast.parse(f"({inner},)" if inner.strip() else "()", mode="eval").body
        return PartitionSpec(*_entry(tree))
    except (SyntaxError, ValueError, TypeError) as error:
        raise PlanError(f"{text!r} is no spec: write one such as P(None, ('x', 'y'))") from error


def _entry(node: ast.expr) -> Any:
    match node:
        case ast.Constant(None | str() as value):
            return value
        case ast.Name(name):
            return name
        case ast.Tuple(entries):
            return tuple(map(_entry, entries))
    raise ValueError(node)


def _planned(f: Formulation, plan: Plan, name: str, port: Port) -> PartitionSpec:
    """The spec of a value in the plan; of what an operation computes, where it comes to rest."""
    for v in (*plan.arguments, *plan.results):
        if v.name == name:
            return to_spec(v.spec)
    path = show(f.graph.nodes[port.node].path)
    chain = next(op.results[port.result] for op in plan.operations if op.path == path)
    return to_spec(chain[-1]) if chain else PartitionSpec()


def _reason(f: Formulation, port: Port, wanted: PartitionSpec) -> str:
    """Why no strategy of a value shows a spec."""
    node, shape = f.graph.nodes[port.node], f.graph.aval(port).shape
    for d, entry in enumerate(wanted):
        ways = int(f.mesh.size[f.mesh.mask(names_of(entry))]) if entry is not wanted.UNCONSTRAINED else 1
        if shape[d] % ways:
            return f"{'·'.join(names_of(entry))} = {ways} does not divide dim {d} of size {shape[d]}"
    if node.pin is not None:
        return f"you have asked for {node.pin} there"
    return f"no strategy of {node.name} gives it" + (f" at {node.source}" if node.source else "")
