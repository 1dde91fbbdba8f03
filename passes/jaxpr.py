"""Walking and rewriting jaxprs: the one file that touches their internals.

Rewriting is structural. `jit`, `scan`, `while`, `cond`, `remat2`, `shard_map` stay what they are and keep their
operands; only equations inside change. So nothing is traced again but the replacements themselves:

    {a b. c = dot_general a b; d = tanh c}          rewrite(…, replace) with, at path 0,
    {a b. e = dot_general a b; c = mul e 2.0; d = tanh c}          lambda a, b: [2.0 * (a @ b)]
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
from jax.core import ShapedArray, Tracer
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, Var, gensym, jaxpr_as_fun
from jax.extend.source_info_util import user_context

from passes.place import LIBRARY
from passes.place import Path as Path
from passes.place import locate as locate
from passes.place import parse as parse
from passes.place import primitive_name as primitive_name
from passes.place import show as show
from passes.place import source as source

Atom = Var | Literal
Fun = Callable[..., Sequence[Any]]
Border = Callable[[Path, Sequence[Any]], Fun | None]


@dataclass(frozen=True)
class Around:
    """Keeps an equation, and sends operands and results through programs of one value; None leaves a value alone.

    With `instead`, a function of its operands that returns its results, something else stands in the middle.
    """

    operands: tuple[ClosedJaxpr | None, ...]
    results: tuple[ClosedJaxpr | None, ...]
    instead: Fun | None = None


@dataclass(frozen=True)
class Run:
    """Stands in for an equation and those behind it, `length` together, as a function of all that they read.

    What they read and what of theirs is read elsewhere: `border`.
    """

    length: int
    fun: Fun


Replacement = Fun | ClosedJaxpr | Around | Run
Replace = Callable[[Path, JaxprEqn], Replacement | None]


def as_fun(closed: ClosedJaxpr) -> Callable[..., list[Any]]:
    """A function on flat arguments that evaluates the program."""
    return jaxpr_as_fun(closed)


def bind(eqn: JaxprEqn, *operands: Any, params: Mapping[str, Any] | None = None) -> list[Any]:
    """Applies the equation to other operands: the building stone of replacements.

    With other `params`, it does so in the context of the caller, such as the body of a `shard_map`.
    """
    with eqn.ctx.manager if params is None else nullcontext():
        kinds = eqn.primitive.get_bind_params(eqn.params if params is None else dict(params))
        out = eqn.primitive.bind(*operands, **kinds)
    return list(out) if eqn.primitive.multiple_results else [out]


def subjaxprs(eqn: JaxprEqn) -> list[tuple[str, Jaxpr]]:
    """The jaxprs in an equation's params, open or closed, with the step that leads to each."""
    return [
        (key, value.jaxpr if isinstance(value, ClosedJaxpr) else value)
        for name, param in eqn.params.items()
        for key, value in _members(name, param)
        if isinstance(value, ClosedJaxpr | Jaxpr)
    ]


def is_plain(eqn: JaxprEqn) -> bool:
    """Whether an equation is its primitive on its operands and no more: no effect, no body, no orders to a compiler."""
    return not (eqn.effects or subjaxprs(eqn) or eqn.ctx.compute_type or eqn.ctx.xla_metadata)


def variables(atoms: Sequence[Atom]) -> list[Var]:
    """The atoms that are variables, not literals."""
    return [v for v in atoms if isinstance(v, Var)]


def body_at(closed: ClosedJaxpr, path: Path) -> Jaxpr:
    """The body that a path leads to."""
    return dict(subjaxprs(enclosing(closed, (*path, 0))[-1]))[str(path[-1])] if path else closed.jaxpr


def border(body: Jaxpr, start: int, stop: int) -> tuple[list[Var], list[Var]]:
    """What a run of equations reads from before, and what of theirs is read after, each once and in order."""
    run, rest = body.eqns[start:stop], body.eqns[stop:]
    made = {v: None for eqn in run for v in eqn.outvars if not isinstance(v, DropVar)}
    read = dict.fromkeys(v for eqn in run for v in variables(eqn.invars) if v not in made)
    later = set(variables([v for eqn in rest for v in eqn.invars] + list(body.outvars)))
    return list(read), [v for v in made if v in later]


def _members(name: str, param: Any) -> list[tuple[str, Any]]:
    if isinstance(param, tuple):
        return [(f"{name}.{i}", value) for i, value in enumerate(param)]
    return [(name, param)]


def walk(jaxpr: Jaxpr | ClosedJaxpr, path: Path = ()) -> Iterator[tuple[Path, JaxprEqn]]:
    """Every equation of every nested jaxpr in program order, an equation before those inside of it."""
    for i, eqn in enumerate(jaxpr.eqns):
        yield (*path, i), eqn
        for key, body in subjaxprs(eqn):
            yield from walk(body, (*path, i, key))


def enclosing(jaxpr: Jaxpr | ClosedJaxpr, path: Path) -> list[JaxprEqn]:
    """The equations that `path` passes through, outermost first, without the one it names."""
    if len(path) < 2:
        return []
    eqn = jaxpr.eqns[_index(path[0])]
    return [eqn, *enclosing(dict(subjaxprs(eqn))[str(path[1])], path[2:])]


def _index(step: int | str) -> int:
    if isinstance(step, int):
        return step
    raise ValueError(f"a path alternates between indices and params; {step!r} stands where an index is expected")


def map_bodies(closed: ClosedJaxpr, f: Callable[[Path, Jaxpr], Jaxpr]) -> ClosedJaxpr:
    """Applies `f(path, body)` to every nested jaxpr, innermost first, and to the program's own body last.

    `f` must keep the number and types of the body's inputs and outputs. What does not change stays the same object, so
    jaxprs shared between equations stay shared, and an unchanged program is returned itself.
    """
    body = _map_body(closed.jaxpr, (), f)
    return closed if body is closed.jaxpr else ClosedJaxpr(body, closed.consts)


def _map_body(body: Jaxpr, path: Path, f: Callable[[Path, Jaxpr], Jaxpr]) -> Jaxpr:
    eqns = [_map_eqn(eqn, (*path, i), f) for i, eqn in enumerate(body.eqns)]
    same = all(new is old for new, old in zip(eqns, body.eqns))
    return f(path, body if same else with_eqns(body, eqns))


def _map_eqn(eqn: JaxprEqn, path: Path, f: Callable[[Path, Jaxpr], Jaxpr]) -> JaxprEqn:
    old = subjaxprs(eqn)
    new = {key: _map_body(body, (*path, key), f) for key, body in old}
    if all(new[key] is body for key, body in old):
        return eqn
    params = {name: _renewed(name, param, new) for name, param in eqn.params.items()}
    gained = {e for key, body in old for e in _global(new[key].effects - body.effects)}
    bound = manual_axes(eqn)
    effects = {e for e in gained if getattr(e, "name", None) not in bound}
    return eqn.replace(params=params, effects=eqn.effects | effects)


def _renewed(name: str, param: Any, new: Mapping[str, Jaxpr]) -> Any:
    if not isinstance(param, tuple):
        return _swapped(param, new.get(name))
    values = [_swapped(value, new.get(key)) for key, value in _members(name, param)]
    return type(param)(*values) if hasattr(param, "_fields") else tuple(values)


def _swapped(value: Any, body: Jaxpr | None) -> Any:
    if body is None:
        return value
    return ClosedJaxpr(body, value.consts) if isinstance(value, ClosedJaxpr) else body


def _global(effects: Any) -> set[Any]:
    """Effects that are not tied to one operand, as reading a mutable array is."""
    return {effect for effect in effects if _target(effect) is None}


def _target(effect: Any) -> Var | None:
    return getattr(effect, "input", None)


def with_eqns(body: Jaxpr, eqns: Sequence[JaxprEqn], outvars: Sequence[Atom] | None = None) -> Jaxpr:
    """The body with other equations and, if given, other outputs; its inputs and names stay."""
    effects = body.effects | {effect for eqn in eqns for effect in _global(eqn.effects)}
    outs = list(body.outvars if outvars is None else outvars)
    return body.replace(eqns=list(eqns), outvars=outs, effects=effects, debug_info=body.debug_info)


def manual_axes(eqn: JaxprEqn) -> dict[Any, int]:
    """Mesh axes that a `shard_map` gives to its body, with their sizes; none for any other equation."""
    axes = eqn.params.get("newly_manual_axes", eqn.params.get("manual_axes", ()))
    return {axis: eqn.params["mesh"].shape[axis] for axis in sorted(axes)}


def rewrite(
    closed: ClosedJaxpr, replace: Replace, enter: Border | None = None, leave: Border | None = None
) -> ClosedJaxpr:
    """Puts other equations in the place of some, at any depth.

    A replacement is traced on the types of the equation's operands and spliced in. It carries the traceback of the
    equation it replaces, and its name stack in front of its own, so that compiled code still leads to the user's line.

    The body of a `custom_jvp_call` or `custom_vjp_call` is rewritten like any other and the user's derivative rule is
    kept as it is; the rule itself is a function, not a jaxpr, so what a derivative runs instead of the body is not
    rewritten. Differentiate first to reach it.

    Args:
        closed: The program.
        replace: `replace(path, eqn)` gives None to keep the equation, or what stands in for it: a function of its
            operands that returns its results, a closed jaxpr, or `Around` to keep it between others. Paths are those
            of the program as given; the bodies inside of `eqn` have been rewritten already. `bind(eqn, …)` inside the
            function applies the equation itself.
        enter: `enter(path, types)` gives None, or a function that is applied to the inputs of the body at `path`
            before anything reads them.
        leave: Likewise for the outputs of the body.

    Returns:
        The program; `closed` itself if nothing was replaced.

    Raises:
        ValueError: A replacement returns other shapes or dtypes than the equation, or holds on to a traced value.
    """

    def splice(path: Path, body: Jaxpr) -> Jaxpr:
        wanted = {i: f for i, eqn in enumerate(body.eqns) if (f := replace((*path, i), eqn)) is not None}
        first = enter(path, [v.aval for v in body.invars]) if enter else None
        last = leave(path, [v.aval for v in body.outvars]) if leave else None
        if not wanted and first is None and last is None:
            return body
        return _Splice(path, body, [e for e in enclosing(closed, path) if manual_axes(e)]).run(wanted, first, last)

    return map_bodies(closed, splice)


class _Splice:
    """One body inside of the `shard_map`s `maps`. `env` says what became of its variables."""

    def __init__(self, path: Path, body: Jaxpr, maps: Sequence[JaxprEqn]):
        self.path, self.body, self.maps = path, body, maps
        self.env: dict[Var, Atom] = {}
        self.eqns: list[JaxprEqn] = []

    def run(self, wanted: Mapping[int, Replacement], enter: Fun | None, leave: Fun | None) -> Jaxpr:
        anchor = self.body.eqns[0] if self.body.eqns else None
        if enter is not None:
            arrays = [v for v in self.body.invars if _is_array(v)]
            self.replace(self.path, anchor, _among_arrays(enter, self.body.invars), arrays, arrays)
        done = 0
        for i, eqn in enumerate(self.body.eqns):
            f = wanted.get(i)
            if i < done:
                continue
            if isinstance(f, Run):
                done = i + f.length
                self.replace((*self.path, i), eqn, f.fun, *border(self.body, i, done))
            elif f is None:
                self.eqns.append(substituted(eqn, self.env))
            elif isinstance(f, Around):
                self.surround((*self.path, i), eqn, f)
            else:
                self.replace((*self.path, i), eqn, f, eqn.invars, eqn.outvars)
        outs = [_read(self.env, v) for v in self.body.outvars]
        if leave is not None:
            outs = self.apply(self.path, anchor, leave, outs, self.body.outvars)
        return with_eqns(self.body, self.eqns, outs)

    def replace(self, path: Path, eqn: JaxprEqn | None, f: Fun | ClosedJaxpr, ins: Any, outs: Any) -> None:
        results = self.apply(path, eqn, f, [_read(self.env, v) for v in ins], outs)
        self.env |= {old: new for old, new in zip(outs, results)}

    def surround(self, path: Path, eqn: JaxprEqn, around: Around) -> None:
        ins = [_read(self.env, v) for v in eqn.invars]
        for i, f in enumerate(around.operands):
            ins[i : i + 1] = [ins[i]] if f is None else self.apply(path, eqn, f, [ins[i]], [ins[i]])
        if around.instead is None:
            self.eqns.append(_instance(eqn.replace(invars=ins), self.env))
        else:
            self.env |= dict(zip(eqn.outvars, self.apply(path, eqn, around.instead, ins, eqn.outvars)))
        for v, f in zip(eqn.outvars, around.results):
            if f is not None and not isinstance(v, DropVar):
                self.replace(path, eqn, f, [v], [v])

    def apply(self, path: Path, eqn: JaxprEqn | None, f: Fun | ClosedJaxpr, ins: list[Atom], outs: Any) -> list[Atom]:
        """Appends the equations of `f` on the atoms `ins`; its results are to match `outs` in type."""
        closed = f if isinstance(f, ClosedJaxpr) else _traced(f, [x.aval for x in ins], eqn, self.maps)
        _check(path, eqn, closed, [v.aval for v in outs])
        env: dict[Var, Atom] = dict(zip(closed.jaxpr.invars, ins))
        env |= {v: Literal(value, v.aval) for v, value in zip(closed.jaxpr.constvars, closed.consts)}
        self.eqns += [_placed(_instance(inner, env), eqn, closed) for inner in closed.eqns]
        return [_read(env, v) for v in closed.jaxpr.outvars]


def _is_array(v: Var) -> bool:
    """Whether a value can be an operand of a replacement: a reference to a mutable array cannot be handed back."""
    return isinstance(v.aval, ShapedArray)


def _among_arrays(f: Fun, variables: Sequence[Var]) -> Fun:
    """`f` of all variables as a function of those that are arrays; it leaves the others alone and sees None there."""

    def g(*arrays: Any) -> Sequence[Any]:
        left = iter(arrays)
        results = f(*(next(left) if _is_array(v) else None for v in variables))
        return [x for x, v in zip(results, variables) if _is_array(v)]

    return g


def _traced(f: Fun, avals: Sequence[Any], eqn: JaxprEqn | None, maps: Sequence[JaxprEqn]) -> ClosedJaxpr:
    """`f` on these types, as if it had been called where the equation was made."""
    if maps:
        return _traced_inside(f, avals, eqn, maps)
    context: AbstractContextManager = eqn.ctx.manager if eqn else nullcontext()
    traceback = eqn.source_info.traceback if eqn else None
    with context, user_context(traceback):
        return jax.make_jaxpr(lambda *xs: list(f(*xs)))(*avals)


def _traced_inside(f: Fun, avals: Sequence[Any], eqn: JaxprEqn | None, maps: Sequence[JaxprEqn]) -> ClosedJaxpr:
    """Traces while a `shard_map` without operands is traced: nothing else in public sets up the axes of its body."""
    found: list[ClosedJaxpr] = []

    def body() -> tuple[()]:
        found.append(_traced(f, avals, eqn, maps[1:]))
        return ()

    mesh, check_vma = maps[0].params["mesh"], maps[0].params["check_vma"]
    axes = set(manual_axes(maps[0]))
    jax.eval_shape(jax.shard_map(body, mesh=mesh, axis_names=axes, in_specs=(), out_specs=(), check_vma=check_vma))
    return found[0]


def _check(path: Path, eqn: JaxprEqn | None, closed: ClosedJaxpr, avals: Sequence[Any]) -> None:
    where = locate(path, eqn)
    types = [[(x.shape, x.dtype) if hasattr(x, "shape") else x for x in xs] for xs in (closed.out_avals, avals)]
    if types[0] != types[1]:
        raise ValueError(
            f"{where}: the replacement returns {list(closed.out_avals)} instead of {list(avals)};"
            " it must return the results of what it replaces, shapes and dtypes alike"
        )
    if any(isinstance(value, Tracer) for value in closed.consts):
        raise ValueError(f"{where}: the replacement holds on to a traced value; pass it as an operand")


def _instance(eqn: JaxprEqn, env: dict[Var, Atom]) -> JaxprEqn:
    """A copy of `eqn` with fresh results, entered into `env`."""
    fresh = gensym()
    outs = [v if isinstance(v, DropVar) else fresh(v.aval) for v in eqn.outvars]
    copy = substituted(eqn, env).replace(outvars=outs)
    env |= {old: new for old, new in zip(eqn.outvars, outs)}
    return copy


def _placed(eqn: JaxprEqn, origin: JaxprEqn | None, closed: ClosedJaxpr) -> JaxprEqn:
    """`eqn` of `closed` where `origin` stood. JAX's and our own functions have no line of the user."""
    if origin is None:
        return eqn
    library = (closed.jaxpr.debug_info.func_filename or "").startswith(LIBRARY)
    traceback = (origin if library else eqn).source_info.traceback
    stack = origin.source_info.name_stack + eqn.source_info.name_stack
    return eqn.replace(source_info=eqn.source_info.replace(traceback=traceback, name_stack=stack))


def substituted(eqn: JaxprEqn, env: Mapping[Var, Atom]) -> JaxprEqn:
    """The equation with other operands."""
    if not any(v in env for v in variables(eqn.invars)):
        return eqn
    effects = {_moved(effect, env) for effect in eqn.effects}
    return eqn.replace(invars=[_read(env, v) for v in eqn.invars], effects=effects)


def _moved(effect: Any, env: Mapping[Var, Atom]) -> Any:
    target = _target(effect)
    return effect if target is None else effect.replace(_read(env, target))


def _read(env: Mapping[Var, Atom], v: Atom) -> Atom:
    return env.get(v, v) if isinstance(v, Var) else v
