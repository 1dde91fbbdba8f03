"""One of several processes of a `jax.distributed` job: `worker.py <job> <index> <count> <port>`."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from planner import Plan, PlanError, autoshard, testing

SHAPES = [(8, 16), (16, 32), (32, 8)]
X, W, V = (np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(SHAPES))


def mlp(x, w, v):
    return jnp.tanh(x @ w) @ v


def other(x, w, v):
    return jnp.sin(x @ w) @ v


def main(job: str, index: int, count: int, port: int) -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", count, index)
    mesh = Mesh(np.array(jax.devices()).reshape(2, -1), ("x", "y"))
    options = {"mesh": mesh, "machine": testing.EAGER}
    fun = other if job == "programs" and index else mlp
    if job == "plans":
        options["plan"] = plan_of_its_own(mesh, index)
    if job == "memory":
        options["memory_limit"] = 10.0
    try:
        planned = autoshard(fun, **options)
        y = planned(X, W, V)
    except PlanError as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "))
        return
    whole = jax.jit(lambda y: y, out_shardings=jax.NamedSharding(mesh, jax.P()))(y)
    np.testing.assert_allclose(np.asarray(whole), np.asarray(mlp(X, W, V)), rtol=2e-5, atol=2e-5)
    print("plan", planned.plan(X, W, V).fingerprint)


def plan_of_its_own(mesh: Mesh, index: int) -> Plan:
    """A plan for the same program that is another in each process."""
    return autoshard(mlp, mesh=mesh.abstract_mesh, machine=(testing.EAGER, "tpu-v4")[index]).plan(X, W, V)


if __name__ == "__main__":
    job, *numbers = sys.argv[1:]
    main(job, *map(int, numbers))
