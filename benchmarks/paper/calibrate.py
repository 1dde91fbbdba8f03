"""Fits a chip's three constants: shares of peak FLOP/s and HBM bandwidth, seconds of overhead per collective.

`python -m benchmarks.paper.calibrate` fits tpu-v4 on the points of figure 1 for PaLM 540B in bf16 on 64 chips
(benchmarks.paper.latency.POINTS). Choosing and pricing take turns: the planner chooses layouts with the present
constants, then the constants that price those layouts best (least mean squared log error) are looked up on a grid,
until they stay.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.paper.latency import MESH, POINTS, Point, formulation_of, full, program_of, with_constants
from planner import stages
from planner.cost.hardware import PRESETS, Machine
from planner.formulate import Formulation, priced
from planner.solve import evaluate, solve
from planner.strategy import Strategies

Constants = tuple[float, float, float]
SHARES = tuple(round(0.6 + 0.01 * i, 2) for i in range(26))
OVERHEADS = tuple(round(0.25e-6 * i, 8) for i in range(17))
ROUNDS = 4


def choices(machine: Machine, points: Sequence[Point]) -> list[tuple[Strategies, ...]]:
    """The strategies that the planner chooses at each point, one per node."""
    return [_chosen(formulation_of(p, full(machine))) for p in points]


def _chosen(formulation: Formulation) -> tuple[Strategies, ...]:
    choice = solve(formulation.problem).choice
    return tuple(s.keep(np.array([x])) for s, x in zip(formulation.strategies, choice))


def seconds(machine: Machine, p: Point, chosen: Sequence[Strategies]) -> float:
    """What a point's strategies cost on a machine."""
    setting, program = full(machine), program_of(p)
    graph = stages.graph_of(program, setting, None, None)
    problem = priced(graph, chosen, setting.shape, setting.model, machine.chip, setting.limit).problem
    return evaluate(problem, [0] * len(chosen))


def loss(machine: Machine, points: Sequence[Point], chosen: Sequence[Sequence[Strategies]]) -> float:
    """Mean squared log error of fixed choices priced on a machine."""
    return float(np.mean([np.log(seconds(machine, p, c) / p.seconds) ** 2 for p, c in zip(points, chosen)]))


def fit(machine: Machine, points: Sequence[Point], start: Constants) -> Constants:
    """The constants at which choosing and pricing agree."""
    constants = start
    for _ in range(ROUNDS):
        chosen = choices(with_constants(machine, *constants), points)
        best = constants
        for i, values in enumerate((SHARES, SHARES, OVERHEADS, SHARES, SHARES, OVERHEADS)):
            options = [_with(best, i % 3, value) for value in values]
            best = min(options, key=lambda c: loss(with_constants(machine, *c), points, chosen))
        if best == constants:
            break
        constants = best
    return constants


def _with(constants: Constants, i: int, value: float) -> Constants:
    a, b, c = (value if i == j else old for j, old in enumerate(constants))
    return a, b, c


def main() -> None:
    """Fits tpu-v4 and prints the constants."""
    constants = fit(PRESETS["tpu-v4"], POINTS, (0.8, 0.6, 1.5e-6))
    print(
        f"tpu-v4 on {MESH.size} chips: flops_share={constants[0]}, hbm_share={constants[1]}, overhead={constants[2]:g}"
    )


if __name__ == "__main__":
    main()
