import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from programs import mesh

from passes.layout import compact
from planner.sharding import MeshShape, canonical, names_of, padded, shard_elements, to_spec

CUBE = MeshShape(("x", "y", "z"), (2, 3, 4))
masks = st.integers(0, 7)


@pytest.mark.parametrize(
    ("spec", "ndim", "expected"),
    [
        (None, 2, P()),
        (P(), 0, P()),
        (P("x", None), 2, P("x")),
        (P(None, None), 2, P()),
        (P(("x",), ()), 2, P("x")),
        (P((), ("x", "y")), 2, P(None, ("x", "y"))),
        (P(None, "x", None), 3, P(None, "x")),
    ],
)
def test_one_way_to_write_a_spec(spec, ndim, expected):
    assert tuple(canonical(spec, ndim)) == tuple(expected)


def test_a_spec_names_no_more_dims_than_there_are():
    with pytest.raises(ValueError, match="names 2 dims, the array has 1"):
        canonical(P("x", "y"), 1)
    assert canonical(P(None, "y", None), 3) == P(None, "y")


@given(masks)
def test_masks_and_axes_are_inverse(mask):
    assert CUBE.mask(CUBE.axes(mask)) == mask
    assert CUBE.size[mask] == np.prod([dict(zip(CUBE.names, CUBE.sizes))[a] for a in CUBE.axes(mask)], initial=1)


def test_a_name_that_the_mesh_lacks():
    with pytest.raises(ValueError):
        CUBE.mask(["w"])
    assert str(CUBE) == "x=2,y=3,z=4"


@given(st.permutations("xyz"), st.integers(0, 3), st.integers(0, 3))
def test_specs_and_axes_are_inverse(axes, a, b):
    dims = [tuple(axes[: min(a, b)]), tuple(axes[min(a, b) : max(a, b)]), tuple(axes[max(a, b) :])]
    spec = to_spec(dims)
    assert canonical(spec, 3) == spec
    assert [names_of(e) for e in (*spec, *[None] * (3 - len(spec)))] == dims


def test_names_of_an_unconstrained_dim():
    assert names_of(P.UNCONSTRAINED) == names_of(None) == ()


@given(st.permutations([1, 2, 4]), st.tuples(masks, masks))
def test_shard_elements_are_the_shapes_of_jax(bits, rows):
    """Each axis goes to one of two dims or to none, by two rows of bits."""
    first = rows[0] & bits[0] | rows[0] & bits[1]
    second = rows[1] & ~first
    cube, shape = MeshShape(("x", "y", "z"), (2, 2, 2)), (16, 24)
    spec = to_spec([cube.axes(first), cube.axes(second)])
    expected = NamedSharding(mesh(2, 2, 2), spec).shard_shape(shape)
    assert shard_elements(shape, np.array([[first, second, 0]]), cube).tolist() == [list(map(float, expected))]


def tiled(*sizes, at_border):
    return float(padded(np.array([sizes], float), (8, 128), at_border)[0])


@pytest.mark.parametrize(
    ("sizes", "at_border", "expected"),
    [
        ((), True, 1),
        ((5,), True, 128),
        ((129,), False, 256),
        ((64, 1, 128), True, 64 * 128),
        ((64, 1, 128), False, 64 * 128),
        ((1, 64, 100), True, 64 * 128),
        ((18432, 4, 64), True, 18432 * 4 * 64),  # the last dim would pad to 128
        ((18432, 4, 64), False, 18432 * 4 * 128),
        ((5, 3, 128), True, 5 * 4 * 128),  # three rows fill a tile of four, five one of eight
        ((256, 1, 100), True, 256 * 100),  # one row of float32 is a tile
        ((3, 2, 7, 130), True, 21 * 2 * 256),
        ((3, 2, 7, 130), False, 6 * 8 * 256),
        ((12, 2, 4, 128), False, 16 * 2 * 4 * 128),
    ],
)
def test_padding_to_tiles(sizes, at_border, expected):
    assert tiled(*sizes, at_border=at_border) == expected


sizes = st.lists(st.integers(1, 300), min_size=1, max_size=4)


@given(sizes, st.booleans())
def test_padding_never_shrinks_and_stays_below_a_tile_and_a_double(shape, at_border):
    n = float(np.prod(shape))
    assert n <= tiled(*shape, at_border=at_border) * (1 + 1e-9) <= n * 8 * 128
    assert padded(np.array([shape], float), (1, 1), at_border)[0] == pytest.approx(n)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=4))
def test_at_the_border_buffers_are_padded_as_they_are_laid_out(shape):
    rows, columns = (shape[d] for d in compact(shape)[-2:])
    tile = min(8, 1 << (rows - 1).bit_length())
    plane = -(-rows // tile) * tile * -(-columns // 128) * 128
    assert tiled(*shape, at_border=True) == pytest.approx(np.prod(shape) / (rows * columns) * plane)


@given(sizes)
def test_an_aligned_buffer_needs_no_padding(shape):
    aligned = [8 * s for s in shape[:-1]] + [128 * shape[-1]]
    assert tiled(*aligned, at_border=True) == tiled(*aligned, at_border=False) == np.prod(aligned)


def test_layouts_are_padded_row_by_row():
    local = np.array([[8, 128], [8, 64], [4, 128.0]])
    assert padded(local, (8, 128), True).tolist() == [1024, 1024, 512]


def test_cpu_devices_are_there():
    assert len(jax.devices()) == 8
