"""`python -m benchmarks.paper`: figure 3, table 1, table 2, figure 1, ablations; paper and ours."""

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.paper import attention, figure3, latency, rivals, table1, terms
from planner.cost.hardware import PRESETS
from planner.report import seconds


def volumes() -> Table:
    """Figure 3."""
    table = _table(
        "Figure 3: GB per chip moved by a feed-forward layer, paper / ours", "layout", *map(str, figure3.TOKENS)
    )
    for name, paper in figure3.PAPER.items():
        ours = [figure3.volume_of(name, tokens) / 1e9 for tokens in figure3.TOKENS]
        table.add_row(name, *(f"{p:.4g} / {o:.4g}" for p, o in zip(paper, ours)))
    return table


def crossovers() -> Table:
    """Where one layout overtakes another, and the best X."""
    table = _table("Crossovers in tokens, and the X that moves least on an X × n/X mesh", "what", ">paper", ">ours")
    for a, b, paper in figure3.CROSSOVERS:
        table.add_row(f"{a} → {b}", f"{paper}", f"{figure3.crossover(a, b):.0f}")
    for chips in (16, 64, 256):
        table.add_row(f"X, n = {chips}", f"{np.sqrt(chips * figure3.E / figure3.F):g}", f"{figure3.optimum(chips)}")
    return table


def contexts() -> Table:
    """Table 1."""
    table = _table(
        "Table 1: longest context, 30 % of memory for the cache", "attention", ">batch", ">paper", ">ours", ">ratio"
    )
    for variant in table1.VARIANTS:
        for batch, paper in variant.paper.items():
            ours = table1.longest_context(variant, batch)
            table.add_row(variant.name, str(batch), str(paper), f"{ours:.0f}", f"{ours / paper:.3f}")
    return table


def times() -> Table:
    """Figure 1, tables 2 and 3: measured, the paper's formula, the full cost model."""
    columns = ("model", ">chips", "phase", ">batch", ">measured", "layout")
    priced = (">formula", ">error", "picks", ">full", ">error", "picks")
    table = _table("PaLM on TPU v4: measured beside predicted", *columns, *priced)
    found: dict[str, list[tuple[float, ...]]] = {"fitted": [], "table 2": [], "never fitted": []}
    for kind, points in zip(found, (latency.POINTS, latency.TABLE2, latency.TABLE3)):
        for p in points:
            settings = (latency.formula(p.torus), latency.full(PRESETS["tpu-v4"], p.torus))
            both = [latency.predict(p, setting) for setting in settings]
            table.add_row(*_point(p), *(cell for q in both for cell in _prediction(p, q)))
            found[kind].append((p.seconds, *(q.seconds for q in both)))
        table.add_section()
    every = [row for rows in found.values() for row in rows]
    lines = [_quality(f"{name}, {kind}", np.array(rows), i) for i, name in NAMES for kind, rows in found.items()]
    table.caption = "\n".join([*lines, *(_quality(f"{name}, all", np.array(every), i) for i, name in NAMES)])
    return table


NAMES = ((1, "formula"), (2, "full"))


def _point(p: latency.Point) -> tuple[str, ...]:
    phase = f"{p.phase}{' int8' if p.int8 else ''}"
    chips = str(np.prod(p.torus))
    return (f"PaLM {p.size.upper()}", chips, phase, str(p.batch), seconds(p.seconds), f"{p.ffn} {p.attention}".strip())


def _prediction(p: latency.Point, q: latency.Prediction) -> tuple[str, str, str]:
    if not np.isfinite(q.seconds):
        return "does not fit", "", ""
    return seconds(q.seconds), f"{q.seconds / p.seconds - 1:+.0%}", f"{q.ffn}, {q.attention}"


def ablation() -> Table:
    """The full model, and the same with one term left out."""
    columns = ("model", ">median error", ">mean signed error", ">largest")
    table = _table("What each term buys: figure 1 and table 2 without it", *columns)
    for without in terms.terms():
        error = np.array(without.errors)[np.isfinite(without.errors)]
        cells = (np.median(np.abs(error)), error.mean(), np.abs(error).max())
        table.add_row(without.name, f"{cells[0]:.1%}", f"{cells[1]:+.1%}", f"{cells[2]:.1%}")
    return table


def choices() -> Table:
    """Table 2: the layouts that the paper names, the planner's picks, and what every other layout would take."""
    setting = latency.full(PRESETS["tpu-v4"])
    table = _table("Table 2: the planner's pick, and every rival at its best", "layout", *map(_row, latency.TABLE2))
    found = [list(latency.rivals_of(p, setting)) for p in latency.TABLE2]
    picks = [latency.predict(p, setting) for p in latency.TABLE2]
    table.add_row("the paper's", *(f"{p.ffn}, {p.attention}: {seconds(p.seconds)}" for p in latency.TABLE2))
    table.add_row("the planner's", *(f"{q.ffn}, {q.attention}: {seconds(q.seconds)}" for q in picks), end_section=True)
    for row in zip(*found):
        table.add_row(f"{row[0].ffn}, {row[0].attention}", *map(_rival, row))
    return table


def _row(p: latency.Point) -> str:
    return f">{p.phase} {'int8' if p.int8 else 'bf16'}, batch {p.batch}"


def _rival(rival: rivals.Rival) -> str:
    return seconds(rival.seconds) if np.isfinite(rival.seconds) else "-"


def _quality(name: str, found: np.ndarray, column: int) -> str:
    found = found[np.isfinite(found).all(1)]
    error = np.abs(found[:, column] / found[:, 0] - 1)
    rank = latency.rank_correlation(found[:, 0].tolist(), found[:, column].tolist())
    return f"{name}: median error {np.median(error):.1%}, largest {error.max():.1%}, rank correlation {rank:.3f}"


def attentions() -> Table:
    """Serial block, and the switch of attention with the context."""
    setting = latency.full(PRESETS["tpu-v4"])
    table = _table("Decode: what the parallel block saves, and the switch of attention", "what", ">paper", ">ours")
    ratio = attention.serial_over_parallel(setting)
    table.add_row("serial over parallel block, batch 512", f"{attention.SERIAL_OVER_PARALLEL}", f"{ratio:.3f}")
    for context in attention.CONTEXTS:
        time, split = attention.decode_step("parallel", attention.SWITCH_BATCH, context, setting)
        table.add_row(
            f"batch {attention.SWITCH_BATCH}, context {context}: attention split over", "", f"{split}, {seconds(time)}"
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    return table


def main() -> None:
    """Prints all tables."""
    console = Console(width=170)
    for section in (volumes, crossovers, contexts, times, ablation, choices, attentions):
        console.print(section())


if __name__ == "__main__":
    main()
