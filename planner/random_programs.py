"""Random JAX functions, drawn choice by choice: the material of property-based tests."""

from collections.abc import Callable

import jax.numpy as jnp

from planner import moves, rare_moves
from planner.sketch import SIZES, Choose, Sketch, Step
from planner.sketch import RandomProgram as RandomProgram

MOVES: tuple[Callable[[Sketch], Step | None], ...] = (*moves.ALL, *rare_moves.ALL)


def random_program(choose: Choose, most: int) -> RandomProgram:
    """A program of one to `most` steps; `choose` picks one of a sequence, of which the first are the simplest.

    Its first argument has a dim that every mesh axis of up to 8 devices divides.
    """
    sketch = Sketch(choose)
    sketch.weight(*(choose(SIZES) for _ in range(choose((1, 0, 2)))), choose(SIZES[1:]))
    for _ in range(choose(range(1, most + 1))):
        step = choose(MOVES)(sketch)
        if step is not None:
            sketch.add(step)
    if not any(isinstance(place, Step) for place in sketch.places):
        sketch.add(Step("tanh", (0,), jnp.tanh))
    return RandomProgram(tuple(sketch.args), tuple(sketch.places), _results(sketch))


def _results(sketch: Sketch) -> tuple[int, ...]:
    """The values that nobody reads, so that no step is dead."""
    read = {i for place in sketch.places if isinstance(place, Step) for i in place.operands}
    return tuple(i for i, place in enumerate(sketch.places) if isinstance(place, Step) and i not in read)
