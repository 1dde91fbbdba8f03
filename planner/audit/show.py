"""The account of a compiled program, in tables."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from planner.audit.record import Audit, Memory, Move
from planner.report import seconds, short, text
from planner.units import size

SHOWN = 16


def show(found: Audit, width: int) -> str:
    """All tables, those that say what went wrong first."""
    tables = (surprises(found), absent(found), agreed(found), memory(found), lines(found))
    parts = [headline(found), *(text(table, width) for table in tables if table.row_count)]
    return "\n".join([*parts, *(f"note: {note}" for note in found.notes)])


def headline(found: Audit) -> str:
    """One sentence each on time and on surprises."""
    mesh = ",".join(f"{name}={n}" for name, n in found.mesh.items())
    predicted = f", predicted {seconds(found.predicted_seconds)}" if found.predicted_seconds is not None else ""
    first = (
        f"{found.function} on {found.machine}, mesh {mesh}: {seconds(found.seconds)} along the schedule{predicted}\n"
    )
    parts = (("compute", found.compute), ("exposed", found.exposed), ("hidden", found.hidden))
    time = ", ".join(f"{name} {seconds(t)}" for name, t in parts)
    moved = f"{size(found.volume)} communicated per chip"
    verdict = f"; {found.surprising:.1%} surprising, {found.absent:.1%} of the plan absent" if found.planned else ""
    return f"{first}{time}; {moved}{verdict}"


def surprises(found: Audit) -> Table:
    """Compiled but not planned; without a plan, everything that was compiled."""
    if not found.planned:
        return _moves("Collectives", [(m, "") for m in _largest(found.moves)])
    ordered = sorted(found.surprises, key=lambda s: -s.move.volume)[:SHOWN]
    return _moves("Compiled but not planned", [(s.move, s.cause) for s in ordered], "likely cause")


def absent(found: Audit) -> Table:
    """Planned but not compiled."""
    return _moves("Planned but not compiled", [(m, "") for m in _largest(found.missing)])


def agreed(found: Audit) -> Table:
    """Planned and compiled."""
    pairs = sorted(found.pairs, key=lambda p: -p.planned.volume)[:SHOWN]
    return _moves("Planned and compiled", [(p.planned, _kinds(p.compiled)) for p in pairs], "compiled to")


def _kinds(moves: Sequence[Move]) -> str:
    return " + ".join(f"{n} {kind}" if n > 1 else kind for kind, n in Counter(map(_kind, moves)).items())


def _kind(m: Move) -> str:
    return f"{'ring ' if m.chunks else ''}{m.kind}({''.join(m.axes)})"


def _largest(moves: Sequence[Move]) -> Sequence[Move]:
    return sorted(moves, key=lambda m: -m.volume)[:SHOWN]


def _moves(title: str, rows: Sequence[tuple[Move, str]], last: str = "") -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("line", "collective", "bytes", "trips", "time"):
        table.add_column(name, justify="left" if name in ("line", "collective") else "right")
    if last:
        table.add_column(last)
    for m, word in rows:
        cells = (short(m.source), _kind(m), size(m.nbytes), f"{m.trips:g}", seconds(m.seconds))
        table.add_row(*cells, *([word] if last else []))
    return table


def memory(found: Audit) -> Table:
    """Bytes of a chip by part."""
    table = Table(title="Memory of a chip", title_justify="left")
    for name in ("", "arguments", "temporaries", "outputs", "aliased", "allocated", "peak"):
        table.add_column(name, justify="right" if name else "left")
    for name, part in (("predicted", found.predicted_memory), ("compiled", found.compiled_memory)):
        if part is not None:
            table.add_row(name, *_sizes(part))
    return table


def _sizes(part: Memory) -> list[str]:
    parts = part.arguments, part.temporaries, part.outputs, part.aliased, part.allocated, part.peak
    return list(map(size, parts))


def lines(found: Audit) -> Table:
    """Where the time goes, and where the plan was wrong."""
    table = Table(title="Time by line", title_justify="left")
    for name in ("line", "predicted local", "compute", "predicted comms", "exposed", "hidden"):
        table.add_column(name, justify="left" if name == "line" else "right")
    for line in found.lines[:SHOWN]:
        values = (line.local, line.compute, line.comms, line.exposed, line.hidden)
        table.add_row(short(line.source), *map(seconds, values))
    return table
