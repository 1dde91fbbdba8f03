"""The small models of `benchmarks.models` as entries: a training step."""

import jax

from benchmarks.models import SMALL, Small
from benchmarks.zoo.entry import Entry, Workload


def entries() -> tuple[Entry, ...]:
    """Every small model."""
    return tuple(_entry(name, tiny(), real()) for name, (tiny, real) in SMALL.items())


def _entry(name: str, tiny: Small, real: Small) -> Entry:
    return Entry(name, "benchmarks.models", lambda: _tiny(tiny), lambda _: real.train(), donated=(0, 1))


def _tiny(model: Small) -> Workload:
    *inputs, _ = model.batch(jax.random.key(1))
    return model.forward, (model.init(jax.random.key(0)), *inputs)
