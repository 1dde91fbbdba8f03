"""Shardy's own rule for what a primitive lowers to: what serves where a primitive has no rule of ours.

The primitive alone is lowered to StableHLO, and the compiler's pass `sdy-populate-op-sharding-rules` puts a factor
rule on every operation. Where there are several operations, the factors of a value's writer and of its readers are
one, so that the rule of the primitive is read off at its operands and results:

    logsumexp x[i, j]  →  exp ([i, j])->([i, j]); reduce ([i, j])->([i]) reduction={j}; log ([i])->([i])

has the factor i; j is whole, because the log reads a sum that must be closed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import jax
from jax.extend.mlir import passmanager

from planner.rules.factors import Dims, Factors
from planner.rules.labels import Whole, labelled
from planner.rules.rule import Rule

PASS = "builtin.module(func.func(sdy-populate-op-sharding-rules))"
RULE = "sdy.sharding_rule"
PLATFORMS = ("cpu", "tpu", "cuda")
UNKNOWN = 10.0
"""FLOPs for each element that an operation without a rule reads or writes: no more is known of it."""

_CONTRACTIONS = ("stablehlo.dot_general", "stablehlo.convolution")
_LOOKUPS = ("stablehlo.gather",)
_SPREADS = "stablehlo.broadcast_in_dim"
"""Where a factor that only the result has is free. Elsewhere (a matrix of eigenvectors) each device makes all of it."""

_MOVES = ("stablehlo.reshape", "stablehlo.transpose", "stablehlo.broadcast_in_dim", "stablehlo.convert")
_COMBINE = {
    "stablehlo.add": "sum",
    "stablehlo.maximum": "max",
    "stablehlo.minimum": "min",
    "stablehlo.multiply": "mul",
    "stablehlo.or": "or",
    "stablehlo.and": "and",
}


@dataclass(frozen=True)
class OpRule:
    """An `#sdy.op_sharding_rule`: factors by name for each dim, with what must not or cannot simply be split."""

    operands: tuple[tuple[tuple[str, ...], ...], ...]
    results: tuple[tuple[tuple[str, ...], ...], ...]
    sizes: Mapping[str, int]
    reduced: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()


def parse(text: str) -> OpRule:
    """Reads `#sdy.op_sharding_rule<([i, k], [k, j])->([i, j]) {i=8, j=8, k=4} reduction={k}>`."""
    operands, results = (text.partition("->")[side] for side in (0, 2))
    named = dict(re.findall(r"(\w+)=\{([^}]*)\}", text))
    sets = {key: frozenset(re.findall(r"\w+", names)) for key, names in named.items()}
    held = [sets.get(key, frozenset()) for key in ("need_replication", "permutation", "blocked_propagation")]
    sizes = {name: int(size) for name, size in re.findall(r"(\w+)=(\d+)", text)}
    dims = [tuple(map(_dims, re.findall(r"\[([^\]]*)\]", part))) for part in (operands, results)]
    return OpRule(dims[0], dims[1], sizes, sets.get("reduction", frozenset()), held[0].union(*held[1:]))


def _dims(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(re.findall(r"[a-z](?:_\d+)?", dim)) for dim in text.split(",")) if text.strip() else ()


def shardy_rule(bind: Callable[..., Any], operands: Sequence[Any]) -> Rule | None:
    """The rule of a primitive by its lowering, or None where it does not lower alone or has nothing to split.

    Args:
        bind: Applies the primitive to operands.
        operands: Their shapes and dtypes.
    """
    module = lowered(bind, operands)
    if module is None:
        return None
    read = _Reading({_symbol(f): f for f in module.body.operations})
    main = read.functions["main"].regions[0].blocks[0]
    ins = [read.value(x) for x in main.arguments]
    outs = read.block(main, ins)
    shapes = [x.shape for x in operands], [tuple(x.shape) for x in jax.tree.leaves(jax.eval_shape(bind, *operands))]
    return None if len(outs) != len(shapes[1]) else _composed(read, ins, outs, shapes)


def lowered(bind: Callable[..., Any], operands: Sequence[Any]) -> Any:
    """The primitive alone as a StableHLO module whose operations bear rules; None where no platform lowers it."""
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in operands]
    for platform in PLATFORMS:
        try:
            module: Any = jax.jit(bind).trace(*shapes).lower(lowering_platforms=(platform,)).compiler_ir("stablehlo")
        except Exception:  # each platform refuses in its own words, and all that counts is that it does
            continue
        with module.context:
            passmanager.PassManager.parse(PASS).run(module.operation)
        return module
    return None


def _symbol(function: Any) -> str:
    return str(function.attributes["sym_name"]).strip('"')


@dataclass
class _Value:
    """A value's factors by dim, and the factors over which it is a partial result, with how that combines."""

    dims: Dims
    opened: Mapping[int, str] = field(default_factory=dict)


@dataclass
class _Reading:
    """A module being read."""

    functions: Mapping[str, Any]
    factors: Factors = field(default_factory=Factors)
    values: list[_Value] = field(default_factory=list)
    flops: float = 0.0

    def value(self, x: Any, blocked: bool = False) -> _Value:
        """A value with a factor of its own for each dim."""
        shape = x.type.shape if hasattr(x.type, "shape") else ()
        return self.keep(_Value([[self.factors.fresh(size, blocked)] for size in shape]))

    def keep(self, value: _Value) -> _Value:
        self.values.append(value)
        return value

    def block(self, block: Any, arguments: Sequence[_Value]) -> list[_Value]:
        """Reads the operations of a function; returns the values that it returns."""
        env = dict(zip(map(_id, block.arguments), arguments))
        for op in (o.operation for o in block.operations):
            operands = [env[_id(x)] for x in op.operands]
            if op.name == "func.return":
                return operands
            env.update(zip(map(_id, op.results), self.operation(op, operands)))
        return []

    def operation(self, op: Any, operands: list[_Value]) -> list[_Value]:
        """The values of the results of one operation."""
        if op.name == "func.call":
            callee = self.functions[str(op.attributes["callee"]).lstrip("@").strip('"')]
            return self.block(callee.regions[0].blocks[0], operands)
        if RULE in op.attributes:
            return self.ruled(op, parse(str(op.attributes[RULE])), operands)
        if op.name in ("stablehlo.constant", "stablehlo.iota"):
            return [self.value(x) for x in op.results]
        alike = {tuple(x.type.shape) for x in (*op.operands, *op.results) if hasattr(x.type, "shape")}
        if op.name.startswith("chlo.") and len(alike) == 1:
            return self.ruled(op, _elementwise(len(operands), next(iter(alike))), operands)
        return self.opaque(op, operands)

    def opaque(self, op: Any, operands: list[_Value]) -> list[_Value]:
        """An operation that Shardy has no rule for: all that it touches is whole."""
        results = [self.value(x, blocked=True) for x in op.results]
        self.flops += UNKNOWN * sum(self.factors.points(v.dims) for v in (*operands, *results))
        for v in operands:
            self.factors.block([*(f for dim in v.dims for f in dim), *v.opened])
        return results

    def ruled(self, op: Any, rule: OpRule, operands: list[_Value]) -> list[_Value]:
        """An operation with a rule: its factors are those of the values that it reads."""
        mine = {name: self.factors.fresh(size, name in rule.held) for name, size in rule.sizes.items()}
        for value, dims in zip(operands, rule.operands):
            for have, names in zip(value.dims, dims):
                self.factors.meet(have, [mine[name] for name in names])
        if op.name != _SPREADS:
            made = {name for dims in rule.results for names in dims for name in names}
            read = {name for dims in rule.operands for names in dims for name in names}
            self.factors.block(mine[name] for name in sorted(made - read))
        self.flops += prod(rule.sizes.values()) * (2.0 if op.name in _CONTRACTIONS else 1.0)
        opened = self.opened(op, rule, mine, operands)
        return [self.result(x, dims, mine, opened) for x, dims in zip(op.results, rule.results)]

    def result(self, x: Any, dims: Any, mine: Mapping[str, int], opened: Mapping[int, str]) -> _Value:
        """A result; a dim that is not the product of its factors (a slice, a pad) has a whole factor of its own."""
        rows = [[mine[name] for name in names] for names in dims]
        for d, size in enumerate(x.type.shape):
            if self.factors.points([rows[d]]) != size:
                rows[d] = [self.factors.fresh(size, blocked=True)]
        return self.keep(_Value(rows, opened))

    def opened(self, op: Any, rule: OpRule, mine: Mapping[str, int], operands: list[_Value]) -> dict[int, str]:
        """Over which factors the results are partial. Only moves pass on what is; all else needs it closed."""
        before = {f: how for v in operands for f, how in v.opened.items()}
        if op.name not in _MOVES:
            self.factors.block(before)
            before = {}
        how = _how(op)
        reduced = [mine[name] for name in sorted(rule.reduced)]
        if how is None:
            self.factors.block(reduced)
        return {**before, **({f: how for f in reduced} if how else {})}


def _id(x: Any) -> int:
    return hash(x)


def _how(op: Any) -> str | None:
    if op.name in (*_CONTRACTIONS, *_LOOKUPS):
        return "sum"
    bodies = [o.operation.name for region in op.regions for block in region.blocks for o in block.operations]
    return _COMBINE.get(bodies[0]) if len(bodies) == 2 else None


def _elementwise(count: int, shape: Sequence[int]) -> OpRule:
    names = tuple((f"i_{d}",) for d in range(len(shape)))
    return OpRule((names,) * count, (names,), {f"i_{d}": size for d, size in enumerate(shape)})


def _composed(read: _Reading, ins: list[_Value], outs: list[_Value], shapes: tuple[Any, Any]) -> Rule | None:
    """The rule between a module's arguments and its results."""
    f = read.factors
    for v, shape in zip((*ins, *outs), (*shapes[0], *shapes[1])):
        f.block(x for dim in v.dims[len(shape) :] for x in dim)  # the words of a key
    rows = [
        [f.leaves(v.dims[d]) for d in range(len(shape))] for v, shape in zip((*ins, *outs), (*shapes[0], *shapes[1]))
    ]
    shown = {x for row in rows[len(ins) :] for dim in row for x in dim}
    opened = [{x: how for o, how in v.opened.items() for x in f.leaves([o])} for v in outs]
    reduced = {x: how for x, how in (opened[0] if opened else {}).items() if all(o.get(x) == how for o in opened)}
    known = {x for row in rows for dim in row for x in dim}
    f.block(known - shown - set(reduced))
    f.block(shown & set(reduced))
    for value in read.values:
        f.block(f.repeated(value.dims))
    if not known - f.whole():
        return None
    name = partial(_label, f.whole())
    labels = [[[name(x) for x in dim] for dim in row] for row in rows]
    free = [x for x in known if x not in f.whole()]
    return labelled(
        labels[: len(ins)],
        labels[len(ins) :],
        *shapes,
        sizes={name(x): f.sizes[x] for x in sorted(known)},
        reduced={x: how for x, how in reduced.items() if x in free},
        positional=free,
        work=read.flops / (prod(f.sizes[x] for x in free) or 1),
    )


def _label(whole: set[int], x: int) -> Any:
    return Whole("factor", x) if x in whole else x
