"""From a function and abstract arguments to a program: jaxpr, names, donated state, fingerprint."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from passes.associate import associate
from passes.dce import eliminate
from passes.in_place import in_place
from passes.inline import inline
from planner.hints import Hints, Weights, hints_of
from planner.open_sums import open_values


@dataclass(frozen=True)
class Program:
    """A traced function.

    Attributes:
        closed: Its jaxpr without calls and dead code.
        in_tree: Structure of `(args, kwargs)`, static arguments left out.
        out_tree: Structure of the result.
        names: Name of each flat argument, such as `params['wq']`.
        donated: For each flat argument, whether its buffer is given away.
        hints: What the user knows of its loops and branches.
    """

    closed: Any
    in_tree: Any
    out_tree: Any
    names: tuple[str, ...]
    donated: tuple[bool, ...]
    hints: Hints = field(default_factory=Hints)

    @property
    def fingerprint(self) -> str:
        """Equal for equal programs: a hash of the jaxpr, its shapes and what is donated, not of source lines."""
        text = re.sub(r" at 0x[0-9a-f]+", "", str(self.closed.jaxpr))
        return hashlib.sha256(repr((text, self.names, self.donated)).encode()).hexdigest()[:16]

    def ties(self) -> dict[int, int]:
        """For each result that can take the place of a donated argument, that argument: equal shape and dtype."""
        free = [i for i, given in enumerate(self.donated) if given]
        found = {}
        for o, var in enumerate(self.closed.jaxpr.outvars):
            same = next((i for i in free if _same(self.closed.jaxpr.invars[i].aval, var.aval)), None)
            if same is not None:
                found[o] = same
                free.remove(same)
        return found


def _same(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def auto_mesh(mesh: Mesh | AbstractMesh) -> Any:
    """The same mesh with Auto axes."""
    return mesh.update(axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def trace(
    fun: Callable,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    mesh: Mesh | AbstractMesh,
    *,
    trips: Mapping[str, float] | None = None,
    weights: Weights | None = None,
    **options: Any,
) -> Program:
    """Traces `fun` unsharded, with the mesh in context for specs inside of it.

    Args:
        fun: Any function that `jax.jit` takes.
        args: Arrays or ShapeDtypeStructs.
        kwargs: Likewise.
        mesh: The mesh that bare specs in the function refer to.
        trips: How often while loops run (`planner.hints`).
        weights: How often each branch of a `cond` is taken.
        **options: `static_argnums`, `static_argnames`, `donate_argnums`, `donate_argnames` of `jax.jit`.
    """
    auto, hints = auto_mesh(mesh), hints_of(trips, weights)
    with jax.sharding.use_abstract_mesh(getattr(auto, "abstract_mesh", auto)):
        traced = jax.jit(fun, **options).trace(*map(unsharded, args), **{k: unsharded(v) for k, v in kwargs.items()})
    infos, in_tree = jax.tree.flatten(traced.args_info)
    names, donated = argument_names(traced), tuple(info.donated for info in infos)
    closed = associate(eliminate(inline(traced.jaxpr)), open_values)
    program = Program(closed, in_tree, traced.out_tree, names, donated, hints)
    return replace(program, closed=eliminate(in_place(program.closed, program.ties())))


def argument_names(traced: Any) -> tuple[str, ...]:
    """Names of the flat arguments as the user wrote them."""
    paths = jax.tree_util.tree_flatten_with_path(traced.args_info)[0]
    written = traced.jaxpr.jaxpr.debug_info.arg_names
    if written and len(written) == len(paths):
        return tuple(name or f"argument {i}" for i, name in enumerate(written))
    return tuple(jax.tree_util.keystr(path) for path, _ in paths)


def unsharded(tree: Any) -> Any:
    """Arrays as shapes, without their shardings; anything else as it is."""
    return jax.tree.map(_abstract, tree)


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=getattr(leaf, "weak_type", False))
    return leaf
