"""What a planner can be asked about: decode, prefill and train, as a function and its abstract arguments."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.models import transformer
from benchmarks.models.config import Config
from benchmarks.models.weights import abstract, init

Tree = Any
Workload = tuple[Callable, tuple]
"""`(fun, abstract_args)`: every argument of `fun` is positional and one element of `abstract_args`."""


@dataclass(frozen=True)
class Family:
    """One architecture in several sizes, among them "tiny"; `default` is the size where none is asked for."""

    sizes: Mapping[str, Config]
    default: str

    def config(self, size: str | None = None, scan: bool = True) -> Config:
        """The model of one size."""
        if (size or self.default) not in self.sizes:
            raise ValueError(f"no size {size!r}; choose one of {', '.join(self.sizes)}")
        return replace(self.sizes[size or self.default], scan=scan)

    def decode(self, size: str | None = None, batch: int = 512, context: int = 2048, scan: bool = True) -> Workload:
        """One step of generation: `fun(params, cache, tokens, position) -> (next_tokens, cache)`."""
        config = self.config(size, scan)
        _check(config, context)

        def decode(params: Tree, cache: Tree, tokens: Array, position: Array) -> tuple[Array, Tree]:
            scores, cache = transformer.decode(config, params, cache, tokens, position)
            return lax.argmax(scores, scores.ndim - 1, jnp.int32), cache

        cache = abstract_cache(config, batch, context)
        return decode, (abstract(config), cache, _tokens(batch), _tokens())

    def prefill(self, size: str | None = None, batch: int = 1, length: int = 2048, scan: bool = True) -> Workload:
        """Reading of prompts: `fun(params, tokens) -> (logits, cache)`."""
        config = self.config(size, scan)
        _check(config, length)

        def prefill(params: Tree, tokens: Array) -> tuple[Array, Tree]:
            return transformer.prefill(config, params, tokens)

        return prefill, (abstract(config), _tokens(batch, length))

    def train(self, size: str | None = None, batch: int = 512, length: int = 2048, scan: bool = True) -> Workload:
        """One AdamW step on tokens [B, length + 1].

        `fun(params, opt_state, tokens) -> (params, opt_state, loss)`, with float32 first moments.
        """
        import optax  # Only training wants it: planning a decode step must work without.

        config = self.config(size, scan)
        _check(config, length)
        optimiser = optax.adamw(1e-3, mu_dtype=jnp.float32)

        def train_step(params: Tree, opt_state: Tree, tokens: Array) -> tuple[Tree, Tree, Array]:
            loss, grads = jax.value_and_grad(transformer.loss, argnums=1)(config, params, tokens)
            updates, opt_state = optimiser.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, loss

        params = abstract(config)
        opt_state = jax.eval_shape(optimiser.init, params)
        return train_step, (params, opt_state, _tokens(batch, length + 1))


def abstract_cache(config: Config, batch: int, context: int) -> Tree:
    """Keys and values of `context` positions, shaped as `transformer.prefill` returns them."""
    layers = (config.layers,) if config.scan else ()
    leaf = jax.ShapeDtypeStruct((*layers, batch, context, *config.kv_shape), config.dtype)
    cache = {"k": leaf, "v": leaf}
    return cache if config.scan else (cache,) * config.layers


def materialise(config: Config, abstract_args: tuple, key: Array) -> tuple:
    """Random arguments for a workload of `config`.

    Parameters come from `init`; other floats are small and not negative, so that they can be second moments;
    tokens are in the vocabulary; scalars (a position, a count) are below 8.
    """
    leaves, structure = jax.tree.flatten(abstract_args[1:])
    rest = [_draw(config, leaf, k) for leaf, k in zip(leaves, jax.random.split(key, len(leaves)))]
    return init(config, key), *structure.unflatten(rest)


def _draw(config: Config, leaf: jax.ShapeDtypeStruct, key: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jax.random.randint(key, leaf.shape, 0, config.vocab if leaf.shape else 8, leaf.dtype)
    return (0.1 * jnp.abs(jax.random.normal(key, leaf.shape))).astype(leaf.dtype)


def _tokens(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _check(config: Config, length: int) -> None:
    if config.positions == "learned" and length > config.max_length:
        raise ValueError(f"{length} positions do not fit the learned table of {config.max_length}; ask for fewer")
