from pathlib import Path

import jax.extend.core.primitives as public

from planner import coverage
from planner.build import CALLS
from planner.loops import LOOPS
from planner.rules.opaque import BARRIERS, MANUAL
from planner.rules.registry import family, registered

README = Path(__file__).parent.parent / "README.md"
KINDS = (set(registered()), set(CALLS), set(LOOPS), BARRIERS, MANUAL, {"shard_map"})


def test_every_primitive_that_jax_exports_is_covered() -> None:
    names = {getattr(public, name).name for name in dir(public) if name.endswith("_p")}
    assert len(names) > 150
    assert sorted(names - set().union(*KINDS)) == []


def test_a_primitive_is_of_one_kind() -> None:
    assert sum(map(len, KINDS)) == len(set().union(*KINDS))


def test_every_family_is_in_the_table() -> None:
    assert {family(name) for name in registered()} == set(coverage.FAMILIES)


def test_the_readme_has_todays_table() -> None:
    """`python -m planner.coverage` prints it."""
    _, _, rest = README.read_text().partition("<!-- coverage -->\n")
    table, end, _ = rest.partition("<!-- /coverage -->")
    assert end and table.strip() == coverage.table()
