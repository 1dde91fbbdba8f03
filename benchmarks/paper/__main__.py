"""`python -m benchmarks.paper`: figure 3, table 1, table 2, figure 1, ablations; paper and ours."""

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.paper import attention, figure3, latency, rivals, table1
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
    """Figure 1 and table 2: measured, the paper's formula, the full cost model."""
    settings = (latency.formula(), latency.full(PRESETS["tpu-v4"]))
    columns = ("phase", ">batch", ">measured", "layout", ">formula", ">error", "picks", ">full", ">error", "picks")
    table = _table("PaLM 540B, 64 chips: measured beside predicted", *columns)
    found = []
    for p in (*latency.POINTS, *latency.TABLE2):
        both = [latency.predict(p.phase, p.batch, setting, p.int8) for setting in settings]
        cells = [
            c
            for q in both
            for c in (seconds(q.seconds), f"{q.seconds / p.seconds - 1:+.0%}", f"{q.ffn}, {q.attention}")
        ]
        table.add_row(
            f"{p.phase}{' int8' if p.int8 else ''}",
            str(p.batch),
            seconds(p.seconds),
            f"{p.ffn} {p.attention}".strip(),
            *cells,
        )
        found.append((p.seconds, *(q.seconds for q in both)))
    table.caption = "\n".join(_quality(name, np.array(found), i) for i, name in ((1, "formula"), (2, "full")))
    return table


def choices() -> Table:
    """Table 2: the layouts that the paper names, the planner's picks, and what every other layout would take."""
    setting = latency.full(PRESETS["tpu-v4"])
    table = _table("Table 2: the planner's pick, and every rival at its best", "layout", *map(_row, latency.TABLE2))
    found = [list(latency.rivals_of(p, setting)) for p in latency.TABLE2]
    picks = [latency.predict(p.phase, p.batch, setting, p.int8) for p in latency.TABLE2]
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
    error = np.abs(found[:, column] / found[:, 0] - 1)
    rank = latency.rank_correlation(found[:, 0].tolist(), found[:, column].tolist())
    return f"{name}: median error {np.median(error):.1%}, largest {error.max():.1%}, rank correlation {rank:.3f}"


def ablations() -> Table:
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
    for section in (volumes, crossovers, contexts, times, choices, ablations):
        console.print(section())


if __name__ == "__main__":
    main()
