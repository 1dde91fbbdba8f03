"""A random program as it is drawn: values by number, steps that make new ones, arguments as steps ask for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

Choose = Callable[[Sequence[Any]], Any]
SIZES = (4, 8, 16)
LARGEST = 4096


@dataclass(frozen=True)
class Step:
    """One operation: `fun` on the values numbered `operands`; `text` is how the program prints it."""

    text: str
    operands: tuple[int, ...]
    fun: Callable[..., jax.Array]


@dataclass(frozen=True, eq=False, repr=False)
class RandomProgram:
    """A function of its `args`: values are numbered, arguments and steps in the order in which they appear.

    Attributes:
        args: Its arguments, numpy arrays.
        places: For each value, the argument's index or the step.
        results: Numbers of the values that it returns.
    """

    args: tuple[np.ndarray, ...]
    places: tuple[int | Step, ...]
    results: tuple[int, ...]

    def __call__(self, *args: Any) -> dict[str, jax.Array]:
        """The results, by the names under which the program prints them."""
        values: list[Any] = []
        for place in self.places:
            values.append(args[place] if isinstance(place, int) else place.fun(*(values[i] for i in place.operands)))
        return {f"v{i}": values[i] for i in self.results}

    def __repr__(self) -> str:
        lines = [self._line(i, place) for i, place in enumerate(self.places)]
        return "\n".join(["program", *lines, f"  return {', '.join(f'v{i}' for i in self.results)}"])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """As hypothesis prints it."""
        printer.text(repr(self))

    def _line(self, i: int, place: int | Step) -> str:
        if isinstance(place, int):
            return f"  v{i} = argument {self.args[place].dtype}{list(self.args[place].shape)}"
        return f"  v{i} = {place.text}({', '.join(f'v{operand}' for operand in place.operands)})"


@dataclass
class Sketch:
    """A program under construction."""

    choose: Choose
    args: list[np.ndarray] = field(default_factory=list)
    places: list[int | Step] = field(default_factory=list)
    avals: list[Any] = field(default_factory=list)

    def argument(self, array: np.ndarray) -> int:
        """A new argument; returns its number."""
        self.places.append(len(self.args))
        self.args.append(array)
        self.avals.append(jax.ShapeDtypeStruct(array.shape, array.dtype))
        return len(self.places) - 1

    def weight(self, *shape: int, scale: float = 1.0) -> int:
        """A new argument of random numbers."""
        draw = np.random.default_rng(len(self.places))
        return self.argument((scale * draw.normal(size=shape)).astype(np.float32))

    def integers(self, limit: int, *shape: int) -> int:
        """A new argument of random integers below `limit`."""
        return self.argument(np.random.default_rng(len(self.places)).integers(0, limit, shape).astype(np.int32))

    def value(self, least: int = 1, most: int = 4) -> int | None:
        """A float value of `least` to `most` dims, the latest ones first; None where there is none."""
        fit = [i for i, aval in enumerate(self.avals) if least <= aval.ndim <= most and aval.dtype == np.float32]
        return self.choose(fit[::-1]) if fit else None

    def shape(self, value: int) -> tuple[int, ...]:
        """Shape of a value."""
        return self.avals[value].shape

    def dim(self, value: int) -> int:
        """A dim of a value, the last one first."""
        return self.choose(range(len(self.shape(value)))[::-1])

    def add(self, step: Step) -> None:
        """Appends a step, unless its result would be large."""
        aval = jax.eval_shape(step.fun, *(self.avals[i] for i in step.operands))
        if aval.size <= LARGEST:
            self.places.append(step)
            self.avals.append(aval)
