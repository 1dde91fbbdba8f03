"""Matmuls that run the collective beside them as a ring, for use inside of a `shard_map` (Wang et al., ASPLOS 2023).

Each of the `n` steps multiplies one chunk while others travel, half of them each way. Gathering `x` with `n = 2`,

    {x w. y = all_gather x; c = dot_general y w}

becomes

    {x w. p = ppermute x; a = dot_general x w; b = dot_general p w; c = a and b, each in its place}

A compiler overlaps a permute with a product that neither waits for it nor makes it wait, and fuses an addition into the
product before it. So sums that travel come from both sides and take turns: one travels while the other grows. What
must not move up is tied to what precedes it by an `optimization_barrier`, by way of the offset of a chunk: tying an
operand or a sum itself would make copies of it.

Where a chunk lies depends on the device, so each step slices or updates at an offset that is only known when it runs;
but where sums travel, chunks of a weight may be `rotated` before, once for all steps.
Gathering a contracted dim adds the chunks in another order on each device: the copies of the result are equal up to
rounding, not bit by bit. There narrow floats are summed in float32, as inside of one plain matmul; the derivative of
such a step multiplies a float32 cotangent. A sum that travels has the dtype of the result, as in a plain
reduce-scatter.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Axis = str | tuple[str, ...]
DotDims = tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]
Loops = tuple[int, ...]
Index = jax.Array | int


def loops(dimension_numbers: DotDims, lhs_ndim: int, rhs_ndim: int) -> tuple[Loops, Loops, Loops]:
    """Names the loops of a `dot_general` by numbers: for each dim of lhs, of rhs and of the result, its loop."""
    (lhs_contract, rhs_contract), (lhs_batch, rhs_batch) = dimension_numbers
    lhs, rhs = list(range(lhs_ndim)), list(range(lhs_ndim, lhs_ndim + rhs_ndim))
    for left, right in zip((*lhs_contract, *lhs_batch), (*rhs_contract, *rhs_batch)):
        rhs[right] = lhs[left]
    common = set(lhs) & set(rhs)
    kept = [loop for loop in (*lhs, *rhs) if loop not in common]
    return tuple(lhs), tuple(rhs), tuple([lhs[d] for d in lhs_batch] + kept)


@dataclass(frozen=True)
class _Dot:
    """A `dot_general` that is computed chunk by chunk."""

    dimension_numbers: DotDims
    precision: Any
    dtype: Any

    def __call__(self, lhs: jax.Array, rhs: jax.Array, dtype: Any = None) -> jax.Array:
        kinds = {"precision": self.precision, "preferred_element_type": dtype or self.dtype}
        return lax.dot_general(lhs, rhs, self.dimension_numbers, **kinds)

    @property
    def sum_dtype(self) -> Any:
        """Dtype in which one plain matmul adds its products up."""
        return _sum_dtype(self.dtype)


def _sum_dtype(dtype: Any) -> Any:
    """Float32 for narrower floats."""
    narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.float32 if narrow else dtype


def all_gather_matmul(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: DotDims,
    *,
    axis_name: Axis,
    gather_dim: int,
    operand: int = 0,
    precision: Any = None,
    preferred_element_type: Any = None,
    order: Sequence[int] = (),
) -> jax.Array:
    """`dot_general` of an operand that is gathered over a mesh axis, without waiting for all of it.

    Args:
        lhs: This device's lhs.
        rhs: This device's rhs.
        dimension_numbers: As in `lax.dot_general`.
        axis_name: The mesh axis, or axes from major to minor, over which the chunks are spread.
        gather_dim: The dim of the gathered operand that is in chunks: kept, contracted or batch. The other operand has
            a matching dim, if any, whole.
        operand: Which one is gathered, 0 for lhs or 1 for rhs.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        order: The devices as they stand round the ring, neighbours near each other; by default by their numbers.

    Returns:
        What `dot_general` gives for the gathered operand, whole on every device.

    With `n` devices on the axis, dims of a matmul, and a contracted dim or a kept one of the rhs that is gathered,

        lhs [M, K/n], rhs [K, N], gather_dim=1 -> [M, N]
        lhs [M, K], rhs [K, N/n], operand=1, gather_dim=1 -> [M, N]
    """
    gathered, other = (lhs, rhs) if operand == 0 else (rhs, lhs)
    kinds = {"precision": precision, "preferred_element_type": preferred_element_type}
    ring = {"axis_name": axis_name, "gather_dim": gather_dim, "operand": operand, "order": order}
    return all_gather_matmuls(gathered, [other], dimension_numbers, **ring, **kinds)[0]


def all_gather_matmuls(
    gathered: jax.Array,
    others: Sequence[jax.Array],
    dimension_numbers: DotDims,
    *,
    axis_name: Axis,
    gather_dim: int,
    operand: int = 0,
    precision: Any = None,
    preferred_element_type: Any = None,
    order: Sequence[int] = (),
) -> list[jax.Array]:
    """As `all_gather_matmul`, several with one operand, which is gathered once.

    Each chunk is multiplied with all others while the next travels: so queries, keys and values, or gate and up, share
    one gather of their activations, as do weights that several inputs meet.

    Args:
        gathered: This device's part of what is gathered.
        others: This device's other operands.
        dimension_numbers: As in `lax.dot_general`, the same for all.
        axis_name: The mesh axis, or axes from major to minor, over which the chunks are spread.
        gather_dim: The dim of `gathered` that is in chunks.
        operand: Which one `gathered` is, 0 for lhs or 1 for rhs.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        order: The devices as they stand round the ring, neighbours near each other; by default by their numbers.

    Returns:
        What `dot_general` gives for each, whole on every device.

    With `n` devices on the axis, a gathered kept dim, and dims of matmuls,

        gathered [M/n, K], others [K, N] and [K, O], gather_dim=0 -> [M, N] and [M, O]
    """
    kinds = dimension_numbers, precision, preferred_element_type
    products = [_Product.of(gathered, other, operand, gather_dim, *kinds) for other in others]
    return _multiplied(gathered, products, gathered.shape[gather_dim], _Ring.of(axis_name, order))


def _multiplied(gathered: jax.Array, products: Sequence["_Product"], size: int, ring: "_Ring") -> list[jax.Array]:
    """The products of all chunks, each of this `size` and multiplied while others travel."""
    if ring.n == 1:
        return [p.dot(*p.ordered(gathered, p.other)) for p in products]
    totals: list[jax.Array | None] = [None] * len(products)
    for device, chunk in _from_both_sides(gathered, ring):
        at = device * size
        parts = [p.part(chunk, at, size) for p in products]
        totals = [_put(total, part, p.out, p.loop, at, ring.n) for total, part, p in zip(totals, parts, products)]
    return [total.astype(p.dot.dtype) for total, p in zip(totals, products) if total is not None]


@dataclass(frozen=True)
class _Product:
    """A `dot_general` of which one operand comes in chunks: of `loop`, which `term` has where the other operand is."""

    dot: _Dot
    other: jax.Array
    operand: int
    term: Loops
    out: Loops
    loop: int

    @classmethod
    def of(
        cls, gathered: jax.Array, other: jax.Array, operand: int, dim: int, numbers: DotDims, precision: Any, dtype: Any
    ) -> "_Product":
        dot = _Dot(numbers, precision, dtype or jnp.result_type(gathered, other))
        ranks = (gathered.ndim, other.ndim) if operand == 0 else (other.ndim, gathered.ndim)
        *terms, out = loops(numbers, *ranks)
        return cls(dot, other, operand, terms[1 - operand], out, terms[operand][dim])

    def part(self, chunk: jax.Array, at: jax.Array, size: int) -> jax.Array:
        """The product of a chunk that begins `at`: of a kept dim as it is, of a contracted one as it adds up."""
        dtype = self.dot.dtype if self.loop in self.out else self.dot.sum_dtype
        return self.dot(*self.ordered(chunk, _chunk(self.other, self.term, self.loop, at, size)), dtype)

    def ordered(self, chunk: jax.Array, other: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Lhs and rhs."""
        return (chunk, other) if self.operand == 0 else (other, chunk)


def _from_both_sides(x: jax.Array, ring: "_Ring") -> Iterator[tuple[jax.Array, jax.Array]]:
    """The chunks of all devices with whose they are, the nearest first; each is on its way before the last is used."""
    yield ring.device(0), x
    ahead = behind = x
    for k in range(1, ring.n):
        if k % 2:
            ahead = ring.sent(ahead, 1)
            yield ring.device(-((k + 1) // 2)), ahead
        else:
            behind = ring.sent(behind, -1)
            yield ring.device(k // 2), behind


def _put(total: jax.Array | None, part: jax.Array, out: Loops, loop: int, at: jax.Array, n: int) -> jax.Array:
    """Adds a chunk's product to the sum or, where the loop is a dim of the result, puts it there."""
    if loop not in out:
        return part if total is None else total + part
    dim = out.index(loop)
    shape = (*part.shape[:dim], part.shape[dim] * n, *part.shape[dim + 1 :])
    there: jax.Array = lax.empty(shape, part.dtype) if total is None else total
    return lax.dynamic_update_slice_in_dim(there, part, at, dim)


def matmul_reduce_scatter(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: DotDims,
    *,
    axis_name: Axis,
    scatter_dim: int,
    precision: Any = None,
    preferred_element_type: Any = None,
    order: Sequence[int] = (),
    in_turn: bool = False,
) -> jax.Array:
    """`dot_general` whose results are summed over a mesh axis, each device keeping one chunk of the sum.

    Args:
        lhs: This device's lhs.
        rhs: This device's rhs.
        dimension_numbers: As in `lax.dot_general`.
        axis_name: The mesh axis, or axes from major to minor, to sum over and to spread the chunks over.
        scatter_dim: The dim of the result to split.
        precision: As in `lax.dot_general`.
        preferred_element_type: As in `lax.dot_general`.
        order: The devices as they stand round the ring, neighbours near each other; by default by their numbers.
        in_turn: Whether each operand that is cut comes with its chunks in turn, as `rotated` gives them.

    Returns:
        This device's chunk of the sum.

    Raises:
        ValueError: The axis does not divide the dim.

    With `n` devices on the axis, which split the contracted dim of a matmul,

        lhs [M, K/n], rhs [K/n, N], scatter_dim=1 -> [M, N/n]
    """
    dot = _Dot(dimension_numbers, precision, preferred_element_type or jnp.result_type(lhs, rhs))
    return _scattered(lhs, rhs, dot, scatter_dim, _Ring.of(axis_name, order, in_turn))


def _scattered(lhs: jax.Array, rhs: jax.Array, dot: _Dot, dim: int, ring: "_Ring") -> jax.Array:
    """This device's chunk of the sum. Raises as `matmul_reduce_scatter`."""
    if ring.n == 1:
        return dot(lhs, rhs)
    *terms, out = loops(dot.dimension_numbers, lhs.ndim, rhs.ndim)
    (whole, *_) = [x.shape[term.index(out[dim])] for x, term in zip((lhs, rhs), terms) if out[dim] in term]
    if whole % ring.n:
        raise ValueError(f"cannot scatter dim {dim} of size {whole} over {ring.n} devices of axis {ring.axis_name!r}")
    size, lhs_stays = whole // ring.n, out[dim] not in terms[0]

    def product(chunk: Index, x: jax.Array) -> jax.Array:
        pair = (x, rhs) if lhs_stays else (lhs, x)
        return dot(*(_chunk(y, term, out[dim], chunk * size, size) for y, term in zip(pair, terms)))

    return _met(product, lhs if lhs_stays else rhs, ring)


def _met(product: Callable[[Index, jax.Array], jax.Array], x: jax.Array, ring: "_Ring") -> jax.Array:
    """The sum of all devices' `product(chunk, x)`, of this device's chunk: sums come from both sides and meet here.

    They take turns: one travels a step while the product is computed that joins the other.
    """
    arrived: dict[int, jax.Array | None] = {1: None, -1: None}
    held = None
    for k in range(ring.n - 1, 0, -1):
        way = 1 if k % 2 else -1
        operands, arrived[-way] = _onwards(held, ring, -way, ring.chunk(way * ((k + 1) // 2)), x)
        held = _sum(product(*operands), arrived[way])
    operands, arrived[1] = _onwards(held, ring, 1, ring.chunk(0), x)
    own = _sum(product(*operands), arrived[-1])
    return _sum(lax.optimization_barrier(own), arrived[1])  # else the sum that is still on its way holds it up


def _sum(part: jax.Array, other: jax.Array | None) -> jax.Array:
    """Both, rounded once. In float32, as a TPU adds: what libtpu 0.0.42 makes of it so takes two thirds as long."""
    if other is None:
        return part
    wide = _sum_dtype(part.dtype)
    return (part.astype(wide) + other.astype(wide)).astype(part.dtype)


def _onwards(
    held: jax.Array | None, ring: "_Ring", step: int, chunk: Index, x: jax.Array
) -> tuple[tuple[Index, jax.Array], jax.Array | None]:
    """Sends a sum on, and only when there is one says which chunk is next, or has its other operand."""
    if held is None:
        return (chunk, x), None
    if ring.in_turn:
        x, tied = lax.optimization_barrier((x, held))
    else:
        chunk, tied = lax.optimization_barrier((chunk, held))
    return (chunk, x), ring.sent(tied, step)


def rotated(x: jax.Array, dim: int, *, axis_name: Axis, order: Sequence[int] = ()) -> jax.Array:
    """The chunks of a dim in turn: this device's, then those of devices as they follow round the ring.

    `matmul_reduce_scatter` that gets a weight so, with `in_turn=True`, slices it at offsets that are known when it is
    compiled. Do it once, inside of a `shard_map` of its own, and keep the result: in a program that multiplies once, it
    is one copy more.

    Args:
        x: This device's part of an operand.
        dim: Its dim that becomes the scattered one.
        axis_name: The mesh axis, or axes, of the ring.
        order: The devices as they stand round the ring, as for the matmul.

    Returns:
        An array of the same shape.

    Raises:
        ValueError: The axis does not divide the dim.
    """
    ring = _Ring.of(axis_name, order)
    if x.shape[dim] % ring.n:
        raise ValueError(f"cannot cut dim {dim} of size {x.shape[dim]} for {ring.n} devices of axis {axis_name!r}")
    size = x.shape[dim] // ring.n
    chunks = [lax.dynamic_slice_in_dim(x, ring.device(ahead) * size, size, dim) for ahead in range(ring.n)]
    return lax.concatenate(chunks, dim)


def _chunk(x: jax.Array, term: Loops, loop: int, at: Index, size: int) -> jax.Array:
    return lax.dynamic_slice_in_dim(x, at, size, term.index(loop)) if loop in term else x


@dataclass(frozen=True)
class _Ring:
    """Devices round a ring, by their numbers along `axis_name`: in the order of those where `order` is empty.

    Chunks are numbered as devices are, or `in_turn`: by how far ahead their devices stand.
    """

    axis_name: Axis
    n: int
    order: tuple[int, ...]
    in_turn: bool = False

    @classmethod
    def of(cls, axis_name: Axis, order: Sequence[int], in_turn: bool = False) -> "_Ring":
        n = lax.axis_size(axis_name)
        if order and sorted(order) != list(range(n)):
            raise ValueError(f"order {tuple(order)} does not name each of the {n} devices of axis {axis_name!r} once")
        return cls(axis_name, n, tuple(order), in_turn)

    def device(self, ahead: int) -> jax.Array:
        """The number of the device so many places ahead of this one."""
        me = lax.axis_index(self.axis_name)
        if not self.order:
            return (me + ahead) % self.n
        places = [(self.order.index(i) + ahead) % self.n for i in range(self.n)]
        return lax.select_n(me, *(jnp.int32(self.order[place]) for place in places))  # a table would lie in HBM

    def chunk(self, ahead: int) -> Index:
        """The number of the chunk of the device so many places ahead of this one."""
        return ahead % self.n if self.in_turn else self.device(ahead)

    def sent(self, x: jax.Array, step: int) -> jax.Array:
        """What the device so many places behind this one has."""
        axes, numbers = _numbered(self.axis_name)
        devices = [numbers[i] for i in self.order or range(self.n)]
        return lax.ppermute(x, axes, [(devices[i], devices[(i + step) % self.n]) for i in range(self.n)])


def _numbered(axis_name: Axis) -> tuple[Axis, Sequence[int]]:
    """The axes in the mesh's order, in which `ppermute` numbers devices, and the numbers of those round the ring.

    `axis_index` and all other collectives number them in the order of the axes that they are given.
    """
    if isinstance(axis_name, str) or len(axis_name) == 1:
        return axis_name, range(lax.axis_size(axis_name))
    axes = tuple(sorted(axis_name, key=jax.sharding.get_abstract_mesh().axis_names.index))
    numbers = np.arange(lax.axis_size(axes)).reshape([lax.axis_size(axis) for axis in axes])
    return axes, numbers.transpose([axes.index(axis) for axis in axis_name]).ravel().tolist()
