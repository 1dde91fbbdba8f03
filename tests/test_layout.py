"""How arrays lie in memory at the border of a program: a rule, and the compiler itself where it is at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from passes.layout import compact, laid_out
from planner.audit.topology import has_libtpu, topology_mesh

needs_libtpu = pytest.mark.skipif(not has_libtpu(), reason="needs libtpu: pip install 'meshplan[tpu-aot]'")


@pytest.mark.parametrize(
    ("shape", "itemsize", "order"),
    [
        ((), 4, ()),
        ((5,), 4, (0,)),
        ((4608, 4, 256), 2, (0, 1, 2)),
        ((18432, 4, 64), 2, (1, 2, 0)),
        ((4, 2048, 8, 160), 2, (0, 2, 3, 1)),
        ((4096, 1, 128), 4, (0, 1, 2)),
        ((4096, 1, 128), 2, (1, 0, 2)),  # two rows of narrow elements share a word
        ((7, 7, 3, 64), 4, (0, 2, 1, 3)),
    ],
)
def test_the_two_dims_that_pad_least_are_tiled(shape, itemsize, order):
    assert compact(shape, itemsize) == order


@given(st.lists(st.integers(0, 300), max_size=5), st.sampled_from([1, 2, 4]))
def test_an_order_has_every_dim_once(shape, itemsize):
    assert sorted(compact(shape, itemsize)) == list(range(len(shape)))


@given(st.lists(st.integers(1, 30), max_size=4))
def test_whole_tiles_lie_as_they_are(counts):
    shape = (*(8 * n for n in counts), 128)
    assert compact(shape) == tuple(range(len(shape)))


def test_values_do_not_depend_on_how_they_lie():
    x = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(jax.jit(lambda x: laid_out(x, (1, 2, 0)) + 1)(x), x + 1)


@needs_libtpu
@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2"])
def test_the_compiler_lays_arguments_out_so(name):
    rng, sharding = np.random.default_rng(0), NamedSharding(topology_mesh(name), PartitionSpec())
    sizes = [1, 2, 3, 4, 5, 6, 8, 12, 16, 64, 96, 100, 128, 160, 192, 256]
    shapes = [tuple(map(int, rng.choice(sizes, rng.integers(2, 5)))) for _ in range(40)]
    dtypes = [(jnp.bfloat16, jnp.float32, jnp.int8)[i % 3] for i in range(len(shapes))]
    args = [jax.ShapeDtypeStruct(*pair, sharding=sharding) for pair in zip(shapes, dtypes)]
    compiled = jax.jit(lambda *xs: [x.ravel()[:1] for x in xs]).lower(*args).compile()
    found = [tuple(f.layout.major_to_minor) for f in compiled.input_formats[0]]
    assert found == [compact(a.shape, a.dtype.itemsize) for a in args]
