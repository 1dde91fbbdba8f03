"""The stages of planning in the order in which data flows. Functions only; nothing here reads the clock."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np

from planner.answer import Answer, bodies, collectives, holders, operations
from planner.build import build_graph
from planner.cost.collectives import groups
from planner.cost.hardware import Chip, Machine
from planner.cost.model import CostModel, Roofline
from planner.errors import DoesNotFitError, MeshError
from planner.formulate import Formulation, formulate
from planner.graph import Graph, Port
from planner.layouts import Layout, allowed, layouts, weight_matmuls
from planner.notation import notation
from planner.order import Ordered, order_axes
from planner.plan import Known, Plan, Value, key_of
from planner.rounded import rounded
from planner.sharding import MeshShape
from planner.solve import PROVEN, Ready, Solution, evaluate, peak, rivals, solve
from planner.together import together
from planner.trace import Program
from planner.units import seconds, size
from planner.user_specs import user_pins
from planner.work import held_bytes

Progress = Callable[[str, float, float], None]
ROUNDS = 2
SMALL = 1e-3
"""Permutes that take a smaller share of the time are let be."""
CLOSE = 0.01
"""Known layouts are there to compare, and to start from: a gap up to this is not worth a word."""


@dataclass(frozen=True)
class Setting:
    """What a program is planned for.

    Attributes:
        mesh: A Mesh or AbstractMesh with Auto axes.
        limit: Bytes of memory per chip.
        work: Scales the solver's deterministic work limit.
        prices: The cost model; by default the roofline of the machine.
        backend: What solves integer programs: one of `planner.solve.BACKENDS`.
    """

    mesh: Any
    machine: Machine
    limit: float
    work: float = 1.0
    prices: CostModel | None = None
    backend: str = "highs"

    @property
    def shape(self) -> MeshShape:
        """The mesh's axes."""
        names, sizes = tuple(self.mesh.axis_names), tuple(self.mesh.shape.values())
        links, at_once = self.machine.links(self.mesh), getattr(self.prices, "at_once", False)
        if at_once:
            return MeshShape(names, sizes, at_once=True)
        return MeshShape(names, sizes, tuple(link.walks for link in links), any(link.in_planes for link in links))

    @property
    def model(self) -> CostModel:
        """Seconds on this machine and mesh."""
        return self.prices or Roofline(self.machine.chip, groups(self.machine.links(self.mesh)))


def graph_of(program: Program, setting: Setting, in_shardings: Any, out_shardings: Any) -> Graph:
    """The program's graph with the user's specs on it."""
    pins = user_pins(program, in_shardings, out_shardings, setting.shape)
    sizes, chip = dict(setting.mesh.shape), setting.machine.chip
    found = build_graph(program.closed, program.names, program.ties(), pins, program.hints, sizes)
    return rounded(found) if chip.rounds else found


def formulation_of(program: Program, graph: Graph, setting: Setting) -> Formulation:
    """The integer program. Raises MeshError when a mesh axis can split nothing."""
    found = formulate(graph, setting.shape, setting.model, setting.machine.chip, setting.limit)
    for a, (name, ways) in enumerate(zip(setting.shape.names, setting.shape.sizes)):
        if ways > 1 and not any((s.factor_masks >> a & 1).any() for s in found.strategies if len(s)):
            sizes = sorted({d for node in graph.nodes for d in node.rule.sizes if d > 1})
            raise MeshError(
                f"mesh axis {name}={ways} divides no dim of this program (sizes {', '.join(map(str, sizes[:12]))}): "
                f"choose a mesh whose axes divide them"
            )
    return found


def known_layouts(formulation: Formulation, made: Ready, work: float) -> tuple[tuple[Known, Solution], ...]:
    """Every known layout at its best, in the same integer program."""
    weights = weight_matmuls(formulation.graph)
    if not weights:
        return ()
    best: dict[str, tuple[Known, Solution]] = {}
    every = tuple(_distinct(layouts(len(formulation.mesh.sizes)), formulation.mesh))
    parts = [allowed(formulation, layout, weights) for layout in every]
    for layout, solution in zip(every, rivals(made, parts, work)):
        entry = (_known(formulation, layout, solution), solution)
        if layout.name not in best or _rank(entry) < _rank(best[layout.name]):
            best[layout.name] = entry
    return tuple(best.values())


def _rank(entry: tuple[Known, Solution]) -> tuple[bool, float]:
    return entry[0].seconds is None, entry[1].seconds


def _distinct(every: Sequence[Layout], mesh: MeshShape) -> Iterator[Layout]:
    """Variants that differ by more than swapping axes of equal size."""
    seen = set()
    for layout in every:
        shape = tuple(
            tuple(sorted(mesh.sizes[a] for a in range(len(mesh.sizes)) if m >> a & 1))
            for m in (layout.rows, layout.model, layout.other)
        )
        if (layout.name, shape) not in seen:
            seen.add((layout.name, shape))
            yield layout


def _known(formulation: Formulation, layout: Layout, solution: Solution) -> Known:
    mesh = formulation.mesh
    parts = (("rows", layout.rows), ("model", layout.model), ("other", layout.other))
    axes = "  ".join(f"{what} {''.join(mesh.axes(mask))}" for what, mask in parts if mask)
    if not np.isfinite(solution.seconds):
        return Known(name=layout.name, axes=axes, seconds=None, peak_bytes=None, note="no such layout of this program")
    held = peak(formulation.problem, solution.choice)
    fits = solution.status != "infeasible"
    note = _reserve(solution) if fits else f"needs {missing(solution)} more per chip"
    return Known(name=layout.name, axes=axes, seconds=solution.seconds if fits else None, peak_bytes=held, note=note)


def _reserve(solution: Solution) -> str:
    return f"{seconds(solution.bound)} at best" if solution.gap > CLOSE else ""


def missing(solution: Solution) -> str:
    """By how much a program does not fit, as far as that is proven."""
    low, high = size(solution.short), size(solution.excess)
    return low if low == high else f"{low} to {high}" if solution.short else f"up to {high}"


def solved(made: Ready, known: Sequence[Solution], setting: Setting, progress: Progress | None) -> Solution:
    """The best plan. The known layouts are among the starts, so that it is never worse than they are.

    Those that do not fit are too: where nothing fits, the one that is least over the limit is a start.
    """
    usable = [s.choice for s in known if np.isfinite(s.seconds)]
    return solve(made, starts=usable, work=setting.work, backend=setting.backend, progress=progress)


def with_orders(
    formulation: Formulation, made: Ready, solution: Solution, setting: Setting
) -> tuple[Solution, Ordered]:
    """The solution, or another that takes less time once axes are in order, and the orders; its bound stays the bound.

    The integer program chooses sets of axes. Where no order of a dim's axes spares a permute, strategies and orders
    around it are chosen together.
    """
    best, ordered = solution, order_axes(formulation, solution.choice, setting.model)
    least = evaluate(formulation.problem, best.choice) + ordered.seconds
    for _ in range(1 if made.large else ROUNDS):
        if ordered.seconds <= SMALL * least:
            break
        again = together(formulation, made, best, ordered, setting.model)
        found = ordered if again.choice == best.choice else order_axes(formulation, again.choice, setting.model)
        seconds = evaluate(formulation.problem, again.choice) + found.seconds
        best = replace(best, bound=min(again.bound, seconds, least))
        if seconds >= least:
            break
        best, ordered, least = replace(best, choice=again.choice), found, seconds
    more = evaluate(formulation.problem, best.choice) - solution.seconds
    return replace(best, seconds=solution.seconds + more, alike=solution.alike + more), ordered


def plan_of(
    program: Program,
    formulation: Formulation,
    solution: Solution,
    known: Sequence[Known],
    setting: Setting,
    function: str,
    ordered: Ordered | None = None,
) -> Plan:
    """The plan of a choice of strategies, in the orders given or in the cheapest."""
    letters, chip = notation(formulation.graph), setting.machine.chip
    ordered = ordered or order_axes(formulation, solution.choice, setting.model)
    answer = Answer(formulation, solution.choice, ordered, setting.model, letters)
    nbytes, top = holders(answer)
    total = evaluate(formulation.problem, solution.choice) + ordered.seconds
    plan = Plan(
        versions=versions(),
        program=program.fingerprint,
        function=function,
        mesh=dict(zip(setting.shape.names, setting.shape.sizes)),
        machine=setting.machine.name,
        seconds=total,
        bound=solution.bound,
        status="optimal" if total - solution.bound <= PROVEN * total else "feasible",
        peak_bytes=nbytes,
        limit=setting.limit,
        legend=letters.legend(),
        arguments=_values(answer, chip, program.names, _keys(program.in_tree), formulation.graph.inputs),
        results=_results(answer, chip, program),
        operations=tuple(operations(answer)),
        bodies=bodies(answer),
        collectives=tuple(collectives(answer)),
        known=tuple(known),
        holders=top,
        notes=formulation.graph.notes,
        alike=solution.alike - solution.seconds if np.isfinite(solution.alike) else None,
    )
    plan._trees = (program.in_tree, program.out_tree)
    return plan


def _values(
    answer: Answer, chip: Chip, names: Sequence[str], keys: Sequence[Any], nodes: Sequence[int]
) -> tuple[Value, ...]:
    f, graph = answer.formulation, answer.formulation.graph

    def nbytes(n: int) -> float:
        layout = f.strategies[n].result(0)[[answer.choice[n]]]
        return float(held_bytes(graph.nodes[n].avals[0], layout, chip, f.mesh, graph.nodes[n].role)[0])

    return tuple(
        Value(
            name=name,
            key=key,
            shape=graph.nodes[n].avals[0].shape,
            dtype=graph.nodes[n].avals[0].dtype,
            spec=answer.spec(Port(n)),
            nbytes=nbytes(n),
        )
        for name, key, n in zip(names, keys, nodes)
    )


def _results(answer: Answer, chip: Chip, program: Program) -> tuple[Value, ...]:
    outputs, ties = answer.formulation.graph.outputs, program.ties()
    names = [f"result {i}" for i in range(len(outputs))]
    values = _values(answer, chip, names, _keys(program.out_tree), outputs)
    places = [program.names[ties[i]] if i in ties else "" for i in range(len(outputs))]
    return tuple(v.model_copy(update={"place": place}) for v, place in zip(values, places))


def _keys(tree: Any) -> list[Any]:
    full = jax.tree.unflatten(tree, list(range(tree.num_leaves)))
    return [key_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(full)[0]]


def versions() -> dict[str, str]:
    """Versions of what decided."""
    return {name: _version(name) for name in ("meshplan", "jax", "ortools")}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def explain_misfit(formulation: Formulation, solution: Solution, smallest: str, setting: Setting) -> DoesNotFitError:
    """The error for a program that no plan fits into memory."""
    letters = notation(formulation.graph)
    ordered = order_axes(formulation, solution.choice, setting.model)
    nbytes, top = holders(Answer(formulation, solution.choice, ordered, setting.model, letters))
    found = "no plan fits: the thriftiest" if solution.short else "no plan was found that fits: the thriftiest found"
    lines = "\n".join(f"  {size(holder.nbytes):>8}  {holder.name}" for holder in top[:6])
    return DoesNotFitError(
        f"{found} needs {size(nbytes)} per chip, {missing(solution)} more than "
        f"the {size(setting.limit)} of {setting.machine.name} on mesh {setting.shape}. What takes it:\n{lines}\n"
        f"{smallest}",
        solution.excess,
    )
