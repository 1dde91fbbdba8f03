"""Property-based tests of planned functions: a planned function must give what the plain one gives.

    from hypothesis import given
    from planner import testing

    @given(testing.programs(), testing.meshes())
    def test_any_program(program, mesh):
        testing.assert_equivalent(program, *program.args, mesh=mesh, machine=testing.EAGER, grad=True)

`programs` and `meshes` need hypothesis, `pip install meshplan[test]`; `assert_equivalent` does not.
"""

from collections.abc import Callable, Sequence
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from planner.api import autoshard
from planner.cost.hardware import Chip, Fabric, Machine
from planner.make import function_name
from planner.random_programs import RandomProgram, random_program

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

EAGER = Machine(
    "eager to split", Chip("eager to split", {"float32": 1e6}, 1e9, 1e6), Fabric(link=1e8, hop=1e-9, torus=3)
)
"""A slow chip on fast links: here small arrays are split and moved as large ones are on a real machine."""

STATIC = ("static_argnums", "static_argnames")
_NOT_FOR_GRADIENTS = ("out_shardings", "donate_argnums", "donate_argnames", "plan")


def assert_equivalent(
    fun: Callable,
    *args: Any,
    mesh: Mesh,
    machine: str | Machine = "tpu-v4",
    grad: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    **autoshard_options: Any,
) -> None:
    """Asserts that `fun` planned for a mesh gives what it gives under plain `jax.jit`: floats to `atol + rtol·|plain|`.

    Integers and booleans must be equal.

    Args:
        fun: The function.
        *args: Its arguments, concrete. They stay alive also where the options donate them.
        mesh: A mesh of devices that are there.
        machine: What to plan for, such as `EAGER`, which splits small arrays too.
        grad: Also compare the gradient, itself planned, of a fixed random linear functional of the float results with
            respect to the float arguments.
        rtol: By default eps^(2/3) of the coarsest float dtype among arguments and results: 2e-5 for float32, 0.04 for
            bfloat16.
        atol: By default `rtol` times the largest finite magnitude of the array; of all gradients together, because one
            that is zero but for rounding has no magnitude of its own.
        **autoshard_options: Passed on to `planner.autoshard`.

    Raises:
        AssertionError: Naming the first result that differs, or the argument whose gradient does.
    """
    static = {k: v for k, v in autoshard_options.items() if k in STATIC}
    options = {"mesh": mesh, "machine": machine, **autoshard_options}
    plain = jax.jit(fun, **static)(*args)
    what = f"{function_name(fun)} on mesh {dict(mesh.shape)}: "
    rtol = tolerance((args, plain)) if rtol is None else rtol
    assert_close(plain, autoshard(fun, **options)(*_copies(args)), f"{what}result", rtol, atol)
    if grad:
        slope, options = gradient(fun), {k: v for k, v in options.items() if k not in _NOT_FOR_GRADIENTS}
        plain = jax.jit(slope, **static)(*args)
        atol = rtol * largest(plain) if atol is None else atol
        assert_close(plain, autoshard(slope, **options)(*args), f"{what}gradient of argument", rtol, atol)


def assert_close(plain: Any, planned: Any, what: str, rtol: float, atol: float | None = None) -> None:
    """Asserts that two pytrees have the same structure, shapes, dtypes and, within tolerance, values."""
    structures = jax.tree.structure(plain), jax.tree.structure(planned)
    assert structures[0] == structures[1], f"{what}: plain is {structures[0]}, planned {structures[1]}"
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(plain), jax.tree.leaves(planned)):
        _assert_leaf(_numbers(a), _numbers(b), what + jax.tree_util.keystr(path), rtol, atol)


def _numbers(x: Any) -> np.ndarray:
    """A leaf in numpy; of typed random keys the words that they are made of."""
    is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def _assert_leaf(plain: np.ndarray, planned: np.ndarray, what: str, rtol: float, atol: float | None) -> None:
    types = [f"{x.dtype}{list(x.shape)}" for x in (plain, planned)]
    assert types[0] == types[1], f"{what}: plain is {types[0]}, planned {types[1]}"
    if not jnp.issubdtype(plain.dtype, jnp.inexact):
        np.testing.assert_array_equal(planned, plain, f"{what}: planned (ACTUAL) differs from plain (DESIRED)")
        return
    wide = np.complex128 if jnp.issubdtype(plain.dtype, jnp.complexfloating) else np.float64
    actual, desired = planned.astype(wide), plain.astype(wide)
    if atol is None:
        atol = rtol * float(np.max(np.abs(desired), initial=0.0, where=np.isfinite(desired)))
    note = f"{what}: planned (ACTUAL) differs from plain (DESIRED)"
    np.testing.assert_allclose(actual, desired, rtol=rtol, atol=atol, err_msg=note)


def tolerance(tree: Any) -> float:
    """eps^(2/3) of the coarsest float dtype in a pytree; zero without floats."""
    return max((float(jnp.finfo(x.dtype).eps) ** (2 / 3) for x in jax.tree.leaves(tree) if is_float(x)), default=0.0)


def largest(tree: Any) -> float:
    """The largest finite magnitude among the floats of a pytree; zero without any."""
    sizes = [np.abs(np.asarray(x, np.complex128)) for x in jax.tree.leaves(tree) if is_float(x)]
    return max((float(np.max(x, initial=0.0, where=np.isfinite(x))) for x in sizes), default=0.0)


def is_float(x: Any) -> bool:
    """Whether a leaf is an array, traced or not, with derivatives."""
    return isinstance(x, jax.Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.inexact)


def gradient(fun: Callable) -> Callable:
    """The gradient of a fixed random linear functional of `fun`'s float results.

    Returns:
        A function of the same arguments that gives, for each, the gradients of its float leaves as a list.
    """

    @wraps(fun, updated=())
    def slope(*args: Any) -> Any:
        leaves, tree = jax.tree.flatten(args)
        moving = [i for i, x in enumerate(leaves) if is_float(x)]

        def functional(floats: Sequence[Any]) -> jax.Array:
            there = dict(zip(moving, floats))
            return weigh(fun(*tree.unflatten([there.get(i, x) for i, x in enumerate(leaves)])))

        found = dict(zip(moving, jax.grad(functional)([leaves[i] for i in moving])))
        full = tree.unflatten([found.get(i) for i in range(len(leaves))])
        return tuple(jax.tree.leaves(arg) for arg in full)

    return slope


def weigh(results: Any) -> jax.Array:
    """The sum of all float elements of a pytree, each times a fixed random weight: a float32 scalar."""
    floats = [x for x in jax.tree.leaves(results) if is_float(x)]
    draw = np.random.default_rng(0)
    return sum((jnp.sum(jnp.real(x * draw.normal(size=x.shape).astype(x.dtype))) for x in floats), jnp.float32(0))


def _copies(args: Any) -> Any:
    return jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, args)


def programs(max_equations: int = 8) -> "SearchStrategy[RandomProgram]":
    """Random functions with arguments: call one as `program(*program.args)`.

    Their dims are 4, 8 or 16, so that mesh axes divide them often; their values stay near one. They are made of
    einsums, elementwise operations, reductions, softmaxes, reshapes, transposes, broadcasts, concatenations, slices,
    gathers, `lax.scan` over layers, `jax.checkpoint` and `lax.cond` (`planner.moves`), and of convolutions, pooling,
    scatters, updates in place, cumulative operations, sorts, padding, random bits, linear algebra, while loops,
    `lax.switch` and functions with derivatives of their own (`planner.rare_moves`).

    Args:
        max_equations: The most operations in one; a softmax or a whole scan counts as one.
    """
    st = _hypothesis()

    @st.composite
    def strategy(draw: Callable) -> RandomProgram:
        return random_program(lambda options: draw(st.sampled_from(options)), max_equations)

    return strategy()


def meshes(devices: int = 8) -> "SearchStrategy[Mesh]":
    """Random meshes of one to three axes, Auto or Explicit, of up to `devices` devices of this process."""
    st = _hypothesis()
    sizes = [shape for shape in _shapes(devices) if 1 <= len(shape) <= 3]
    return st.builds(_mesh, st.sampled_from(sizes), st.sampled_from((AxisType.Auto, AxisType.Explicit)))


def _mesh(sizes: tuple[int, ...], kind: AxisType) -> Mesh:
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return Mesh(devices, ("x", "y", "z")[: len(sizes)], axis_types=(kind,) * len(sizes))


def _shapes(devices: int, axes: int = 3) -> list[tuple[int, ...]]:
    """All meshes of powers of two, fewest axes first."""
    if not axes:
        return [()]
    powers = [2**i for i in range(1, devices.bit_length())]
    wider = [(n, *rest) for n in powers for rest in _shapes(devices // n, axes - 1)]
    return sorted({(), *wider}, key=lambda shape: (len(shape), shape))


def _hypothesis() -> ModuleType:
    """hypothesis.strategies. Raises ImportError that says how to get it."""
    try:
        import hypothesis.strategies
    except ImportError as error:
        raise ImportError("planner.testing draws programs with hypothesis: pip install 'meshplan[test]'") from error
    return hypothesis.strategies
