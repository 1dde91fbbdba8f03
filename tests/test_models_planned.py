"""Tiny PaLM, Llama and MT-NLG on eight devices: planned, they say what they say on one."""

import functools

import jax
import pytest
from jax.sharding import Mesh, NamedSharding
from programs import mesh

from benchmarks.models import FAMILIES, materialise
from planner import Machine, autoshard, testing

OPTIONS = {
    "decode": {"batch": 8, "context": 16},
    "prefill": {"batch": 8, "length": 8},
    "train": {"batch": 8, "length": 8},
}
DONATED = {"decode": (1,), "prefill": (), "train": (0, 1)}
QUICK = {"xla_backend_optimization_level": 0}
MESHES = {"2x2x2": mesh(2, 2, 2), "8": mesh(8), "2x4": mesh(2, 4)}
family_given = pytest.mark.parametrize("family", FAMILIES)
meshes_given = pytest.mark.parametrize("on", MESHES)


@functools.cache
def workload(family: str, kind: str, scan: bool = True):
    """The function, its arguments, and what it gives under plain `jax.jit`."""
    zoo = FAMILIES[family]
    fun, abstract = getattr(zoo, kind)("tiny", scan=scan, **OPTIONS[kind])
    args = materialise(zoo.config("tiny", scan), abstract, jax.random.key(0, impl="rbg"))
    return fun, args, jax.jit(fun, compiler_options=QUICK)(*args)


def check(family: str, kind: str, on: Mesh, scan: bool = True, machine: Machine | str = testing.EAGER) -> None:
    fun, args, plain = workload(family, kind, scan)
    planned = autoshard(fun, mesh=on, machine=machine, donate_argnums=DONATED[kind], compiler_options=QUICK)
    plan = planned.plan(*args)
    assert machine != testing.EAGER or plan.collectives
    results = planned(*jax.tree.map(jax.numpy.copy, args))
    testing.assert_close(plain, results, f"{family} {kind} result", testing.tolerance(args))
    for result, spec in zip(jax.tree.leaves(results), jax.tree.leaves(plan.out_specs)):
        assert result.sharding.is_equivalent_to(NamedSharding(on, spec), result.ndim)
    for i in DONATED[kind]:
        assert plan.in_specs[i] == plan.out_specs[i if kind == "train" else 1]


@family_given
@meshes_given
@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_serving(family, kind, on):
    check(family, kind, MESHES[on])


@pytest.mark.parametrize(("family", "on"), [("palm", "2x2x2"), ("llama", "8"), ("mt_nlg", "2x4")])
def test_training_step(family, on):
    check(family, "train", MESHES[on])


@family_given
def test_unrolled_layers(family):
    check(family, "decode", MESHES["2x4"], scan=False)


@family_given
def test_plans_for_a_real_machine(family):
    check(family, "decode", MESHES["2x4"], machine="tpu-v4")


def test_plans_that_memory_forces():
    fun, args, plain = workload("palm", "decode")
    options = {"mesh": MESHES["2x4"], "machine": testing.EAGER, "donate_argnums": 1, "compiler_options": QUICK}
    free = autoshard(fun, **options).plan(*args)
    planned = autoshard(fun, memory_limit=0.85 * free.peak_bytes, **options)
    plan = planned.plan(*args)
    assert plan.peak_bytes <= 0.85 * free.peak_bytes and plan.seconds > free.seconds
    results = planned(args[0], jax.tree.map(jax.numpy.copy, args[1]), *args[2:])
    testing.assert_close(plain, results, "result", testing.tolerance(args))


@family_given
def test_generation_hands_its_cache_on(family):
    fun, (params, cache, tokens, _), _ = workload(family, "decode")
    plain, planned = (
        jax.jit(fun, compiler_options=QUICK),
        autoshard(fun, mesh=MESHES["2x4"], machine=testing.EAGER, donate_argnums=1, compiler_options=QUICK),
    )
    mine, theirs = (tokens, jax.tree.map(jax.numpy.copy, cache)), (tokens, cache)
    for position in range(4):
        before = mine[1]
        mine, theirs = planned(params, before, mine[0], position), plain(params, theirs[1], theirs[0], position)
        assert mine[0].tolist() == theirs[0].tolist()
        assert position == 0 or all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    testing.assert_close(theirs[1], mine[1], "cache", 1e-5)
