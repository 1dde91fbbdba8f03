"""Small programs, one for each construct that nests a jaxpr. Each maps float32[8,8] to float32[8,8]."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec


@jax.custom_jvp
def halved(x):
    return jnp.sin(x) * 2.0


halved.defjvp(lambda primals, tangents: (halved(primals[0]), tangents[0] * 5.0))


@jax.custom_vjp
def scaled(x):
    return jnp.cos(x) * 3.0


scaled.defvjp(lambda x: (scaled(x), x), lambda x, ct: (ct * 7.0,))


def mesh(*sizes, names=("x", "y", "z"), kind=AxisType.Auto):
    devices = np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes)
    return jax.sharding.Mesh(devices, names[: len(sizes)], axis_types=(kind,) * len(sizes))


def flat(x):
    return jnp.tanh(x @ x) + 1.0


def jit(x):
    return jax.jit(flat)(x) * jax.jit(flat)(jnp.sin(x))


def scan(x):
    carry, ys = jax.lax.scan(lambda c, row: (jnp.sin(c) * row, c @ row), x, x)
    return carry + ys


def scan_constant(x):
    table = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
    return jax.lax.scan(lambda c, row: (c @ table + row, None), x, x)[0]


def while_(x):
    return jax.lax.while_loop(lambda c: jnp.sum(c) < 100.0, lambda c: jnp.abs(c) * 2.0 + 1.0, x)


def fori(x):
    return jax.lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + i, x)


def cond(x):
    return jax.lax.cond(jnp.sum(x) > 0.0, lambda x: jnp.sin(x) * 2.0, lambda x: -x, x)


def remat(x):
    return jax.checkpoint(lambda x: jnp.cos(jnp.sin(x) @ x))(x)


def custom_jvp(x):
    return halved(x) + 1.0


def custom_vjp(x):
    return scaled(x) + 1.0


def shard_map(x):
    body = jax.shard_map(
        lambda x: jax.lax.psum(jnp.sin(x), "x") * x,
        mesh=mesh(8),
        in_specs=PartitionSpec("x"),
        out_specs=PartitionSpec("x"),
    )
    return body(x)


def linear_solve(x):
    return jax.lax.custom_linear_solve(lambda v: v * 2.0, x, lambda _, b: b / 2.0, symmetric=True)


def nested(x):
    def layer(c, row):
        c = jax.checkpoint(lambda c: scaled(jax.jit(halved)(c)) @ c * 0.005)(c)
        return jax.lax.cond(row[0] > 0.0, lambda c: c * 0.5, jnp.sin, c), None

    return jax.lax.scan(layer, x, x)[0]


def effects(x):
    jax.debug.callback(lambda _: None, x[0, 0])
    return jnp.sin(x)


SMOOTH = (flat, jit, scan, scan_constant, fori, cond, remat, custom_jvp, custom_vjp, shard_map, linear_solve, nested)
ALL = (*SMOOTH, while_, effects)
