"""Plans as text for people: explain one, compare two."""

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from jax.sharding import PartitionSpec
from rich.console import Console, Group, RenderableType
from rich.table import Table

from planner.plan import Collective, Operation, Plan, Spec
from planner.units import seconds, size

if TYPE_CHECKING:
    from planner.ask import Why

WIDTH = 150
SMALL = 0.001
CHANGES = 8
TIE = 1e-4  # of the seconds of a plan: less than that is a matter of ties


def explain(plan: Plan, width: int = WIDTH) -> str:
    """The whole plan as text: answer, rivals, arguments, and where the time goes, per source line."""
    parts = [summary(plan), rivals(plan), arguments(plan), timeline(plan), memory(plan), *notes(plan)]
    return text(Group(*(part for part in parts if part is not None)), width)


def compare(plan: Plan, other: Plan, width: int = WIDTH) -> str:
    """Two plans side by side: totals, specs that differ, collectives by kind."""
    return text(Group(_totals(plan, other), _spec_changes(plan, other), _collective_changes(plan, other)), width)


def text(what: RenderableType, width: int = WIDTH) -> str:
    """Rich output as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def summary(plan: Plan) -> str:
    """What was planned, for what, and how good it is."""
    mesh = " ".join(f"{name}={size}" for name, size in plan.mesh.items())
    return (
        f"{plan.function} on {plan.machine}, mesh {mesh}\n"
        f"predicted {seconds(plan.seconds)}, proven bound {seconds(plan.bound)}, gap {plan.gap:.2%} ({plan.status}); "
        f"peak {size(plan.peak_bytes)} of {size(plan.limit)} per chip\n"
        f"{_alike(plan)}"
    )


def _alike(plan: Plan) -> str:
    if plan.alike is None:
        return ""
    return f"equal layers alike would take {seconds(plan.alike)} more ({plan.alike / plan.seconds:.2%})\n"


def rivals(plan: Plan) -> Table | None:
    """The known layouts, each at its best, beside the answer."""
    if not plan.known:
        return None
    table = _table(
        "Known layouts, each at its best in the same cost model", "layout", "axes", ">time", ">of ours", ">peak", "note"
    )
    table.add_row("this plan", "", seconds(plan.seconds), "1.00", size(plan.peak_bytes), "")
    for k in plan.known:
        time = (seconds(k.seconds), f"{k.seconds / plan.seconds:.2f}") if k.seconds else ("-", "-")
        table.add_row(k.name, k.axes, *time, size(k.peak_bytes) if k.peak_bytes else "-", k.note)
    return table


def arguments(plan: Plan) -> Table:
    """Specs of arguments and results."""
    table = _table("Arguments and results", "name", "shape", "spec", ">per chip")
    for value in (*plan.arguments, *(r for r in plan.results if not r.place)):
        table.add_row(value.name, f"{value.dtype}{list(value.shape)}", spec(value.spec), size(value.nbytes))
    if replaced := sum(bool(r.place) for r in plan.results):
        table.caption = f"{replaced} results take the place of donated arguments, in the same spec"
    return table


def timeline(plan: Plan) -> Table:
    """Per source line: its matmuls in the paper's notation, its collectives, and its share of the time.

    A ring is a collective inside of a matmul, whose local seconds hold all of it.
    """
    table = _table("Where the time goes", "line", "operation", "collectives", ">trips", ">local", ">comms", ">share")
    table.caption = plan.legend
    hidden = 0.0
    for line, (ops, moves) in _by_line(plan).items():
        local, comms = sum(op.seconds for op in ops), sum(c.seconds for c in moves)
        if local + comms < SMALL * plan.seconds:
            hidden += local + comms
            continue
        share = f"{(local + comms) / plan.seconds:.1%}"
        trips = max([op.trips for op in ops] + [c.trips for c in moves])
        table.add_row(short(line), _matmuls(ops), _moves(moves), f"{trips:g}", seconds(local), seconds(comms), share)
    if hidden:
        table.add_row("all other lines", "", "", "", "", "", f"{hidden / plan.seconds:.1%}")
    return table


def _by_line(plan: Plan) -> Mapping[str, tuple[list[Operation], list[Collective]]]:
    found: dict[str, tuple[list[Operation], list[Collective]]] = defaultdict(lambda: ([], []))
    for op in plan.operations:
        found[op.source][0].append(op)
    for move in plan.collectives:
        found[move.source][1].append(move)
    return found


def _matmuls(ops: Iterable[Operation]) -> str:
    """Matmuls one by one, everything else by name."""
    ops = list(ops)
    matmuls = list(dict.fromkeys(op.notation for op in ops if op.primitive == "dot_general"))
    if matmuls:
        return "\n".join(matmuls)
    heaviest = max(ops, key=lambda op: op.seconds, default=None)
    return f"{heaviest.primitive} {heaviest.notation}".strip() if heaviest else ""


def _moves(moves: Iterable[Collective]) -> str:
    return "\n".join(f"{'ring ' * c.ring}{c.kind}({''.join(c.axes)}) {size(c.nbytes)}" for c in moves)


def memory(plan: Plan) -> Table:
    """What holds memory at the peak."""
    table = _table("Memory of a chip at the peak", ">bytes", "what")
    for holder in plan.holders[:8]:
        table.add_row(size(holder.nbytes), holder.name)
    return table


def notes(plan: Plan) -> list[str]:
    """What to know before relying on the plan."""
    return [f"note: {note}" for note in plan.notes]


def answered(why: "Why", width: int = WIDTH) -> str:
    """What a spec would cost, and where."""
    head = f"{why.value} as {_spec(why.wanted)} instead of {_spec(why.planned)}: "
    if why.reason:
        return f"{head}impossible, as {why.reason}"
    if why.other is None:
        found = "memory forbids it" if why.short else "no plan with it was found that fits"
        missing = f"{size(why.short)} to {size(why.excess)}" if why.short else f"up to {size(why.excess)}"
        return f"{head}{found}; {missing} more per chip would be needed than the {size(why.plan.limit)} there are"
    if why.wanted == why.planned:
        return f"{head}that is what the plan has"
    table = _table("What changes, by source line", "line", ">now", ">then", ">more", "collectives now", "then")
    for line, now, then, moves in _changes(why.plan, why.other):
        table.add_row(short(line), seconds(now), seconds(then), seconds(then - now), *moves)
    return head + _price(why.plan, why.other, why.bound) + ("\n" + text(table, width) if table.rows else "")


def _price(plan: Plan, other: Plan, bound: float) -> str:
    more, least = other.seconds - plan.seconds, bound - plan.seconds
    if more <= TIE * plan.seconds:
        return f"costs nothing, {seconds(other.seconds)} as well"
    sure = (
        f"at least {seconds(least)} are proven"
        if least > TIE * plan.seconds
        else "that it costs anything is not proven"
    )
    peak = f"peak {size(other.peak_bytes)} instead of {size(plan.peak_bytes)}"
    return f"{seconds(more)} more ({more / plan.seconds:.2%}) than {seconds(plan.seconds)}; {sure}; {peak}"


def _changes(plan: Plan, other: Plan) -> Iterator[tuple[str, float, float, tuple[str, str]]]:
    """The source lines whose time changes most, and their collectives."""
    sides = [_by_line(side) for side in (plan, other)]
    empty: tuple[list[Operation], list[Collective]] = ([], [])
    lines = {}
    for line in dict.fromkeys((*sides[0], *sides[1])):
        pair = [side.get(line, empty) for side in sides]
        now, then = (sum(op.seconds for op in ops) + sum(c.seconds for c in moves) for ops, moves in pair)
        lines[line] = now, then, tuple(_moves(moves) for _, moves in pair)
    most = sorted(lines, key=lambda line: -abs(lines[line][1] - lines[line][0]))[:CHANGES]
    for line in most:
        now, then, moves = lines[line]
        if abs(then - now) > SMALL * abs(other.seconds - plan.seconds):
            yield line, now, then, moves


def _spec(wanted: PartitionSpec) -> str:
    return f"P({', '.join('…' if e is wanted.UNCONSTRAINED else repr(e) for e in wanted)})"


def _totals(plan: Plan, other: Plan) -> Table:
    table = _table("Totals", "", f">{plan.function}", f">{other.function}", ">ratio")
    for name in ("seconds", "bound", "peak_bytes"):
        a, b = getattr(plan, name), getattr(other, name)
        show = size if name == "peak_bytes" else seconds
        table.add_row(name, show(a), show(b), f"{b / a:.3f}" if a else "-")
    table.add_row("mesh", _mesh(plan), _mesh(other), "")
    table.add_row("machine", plan.machine, other.machine, "")
    return table


def _mesh(plan: Plan) -> str:
    return str(plan.mesh_shape)


def _spec_changes(plan: Plan, other: Plan) -> Table:
    table = _table("Specs that differ", "value", "first", "second")
    theirs = {v.name: v for v in (*other.arguments, *other.results)}
    mine = {v.name: v for v in (*plan.arguments, *plan.results)}
    for name in dict.fromkeys((*mine, *theirs)):
        a, b = (spec(side[name].spec) if name in side else "absent" for side in (mine, theirs))
        if a != b:
            table.add_row(name, a, b)
    here = {op.path: op for op in plan.operations}
    for op in other.operations:
        if op.path in here and here[op.path].primitive == "dot_general" and here[op.path].notation != op.notation:
            table.add_row(short(op.source), here[op.path].notation, op.notation)
    return table


def _collective_changes(plan: Plan, other: Plan) -> Table:
    table = _table("Collectives", "kind", ">first: count", ">time", ">second: count", ">time")
    sides = [_by_kind(plan.collectives), _by_kind(other.collectives)]
    for kind in dict.fromkeys((*sides[0], *sides[1])):
        (n, t), (m, u) = (side.get(kind, (0.0, 0.0)) for side in sides)
        table.add_row(kind, f"{n:g}", seconds(t), f"{m:g}", seconds(u))
    return table


def _by_kind(moves: Sequence[Collective]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for c in moves:
        count, time = found.get(c.kind, (0.0, 0.0))
        found[c.kind] = (count + c.trips, time + c.seconds)
    return found


def spec(dims: Spec) -> str:
    """A spec as JAX writes it."""
    entries = [{0: "None", 1: repr(axes[0]) if axes else ""}.get(len(axes), repr(axes)) for axes in dims]
    return f"P({', '.join(entries)})"


def short(source: str) -> str:
    """A source line without its folders."""
    return source.rsplit("/", 1)[-1] or "(no source)"


def _table(title: str, *columns: str) -> Table:
    """A table; columns that start with `>` are right-aligned."""
    table = Table(title=title, title_justify="left", caption_justify="left", title_style="bold")
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table
