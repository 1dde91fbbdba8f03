"""A mixture of experts: each token goes through the few experts that its router likes best.

`dense` dispatches by einsums with one-hot masks into a buffer of fixed capacity (Lepikhin et al. 2020, GShard; Fedus et
al. 2021, Switch), `ragged` sorts the tokens by expert and multiplies each group by its own matrix (`lax.ragged_dot`).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from benchmarks.models.small import Draw, Small, Tree, cross_entropy, norm

LAYERS = 2


def init(key: Array, width: int, hidden: int, experts: int, vocab: int) -> Tree:
    """Stacked layers of a router and experts, between two embeddings."""
    draw = Draw(key)
    return {
        "table": draw(vocab, width, fan_in=1),
        "layers": {
            "router": draw(LAYERS, width, experts, fan_in=width),
            "up": draw(LAYERS, experts, width, hidden, fan_in=width),
            "down": draw(LAYERS, experts, hidden, width, fan_in=hidden),
        },
        "out": draw(width, vocab, fan_in=width),
    }


def dense(w: Tree, x: Array, capacity: float = 2.0) -> Array:
    """Top-1 routing of [G, S, E], each group for itself; a token over its expert's capacity is dropped."""
    experts = w["router"].shape[-1]
    places = int(capacity * x.shape[1] / experts)
    gates = jax.nn.softmax(x @ w["router"])
    chosen = jax.nn.one_hot(jnp.argmax(gates, -1), experts)
    place = (jnp.cumsum(chosen, 1) - 1) * chosen
    kept = chosen * (place < places)
    mask = kept[..., None] * jax.nn.one_hot(place.astype(jnp.int32), places)
    inside = jnp.einsum("gsxc,gse->xgce", mask, x)
    hidden = jax.nn.gelu(jnp.einsum("xgce,xef->xgcf", inside, w["up"]))
    outside = jnp.einsum("xgcf,xfe->xgce", hidden, w["down"])
    return jnp.einsum("gsxc,xgce->gse", mask * jnp.max(gates, -1)[..., None, None], outside)


def ragged(w: Tree, x: Array, top: int = 2) -> Array:
    """Top-2 routing of [G, S, E]: no token is dropped, groups are as large as they come."""
    rows = x.reshape(-1, x.shape[-1])
    gates, chosen = lax.top_k(jax.nn.softmax(rows @ w["router"]), top)
    order = jnp.argsort(chosen.reshape(-1))
    sizes = jnp.bincount(chosen.reshape(-1), length=w["router"].shape[-1]).astype(jnp.int32)
    inside = rows[order // top]
    outside = lax.ragged_dot(jax.nn.gelu(lax.ragged_dot(inside, w["up"], sizes)), w["down"], sizes)
    back = outside[jnp.argsort(order)].reshape(-1, top, x.shape[-1])
    return jnp.einsum("tke,tk->te", back, gates).reshape(x.shape)


def forward(kind: str, params: Tree, tokens: Array) -> Array:
    """Scores of the vocabulary for each token."""
    route = {"dense": dense, "ragged": ragged}[kind]
    x, _ = lax.scan(lambda x, w: (x + route(w, norm(x)), None), params["table"][tokens], params["layers"])
    return norm(x) @ params["out"]


def loss(kind: str, params: Tree, tokens: Array, targets: Array) -> Array:
    """Cross-entropy."""
    return cross_entropy(forward(kind, params, tokens), targets)


def model(kind: str, width: int, hidden: int, experts: int, vocab: int, groups: int, length: int) -> Small:
    """The model of one size on [groups, length] tokens."""
    tokens = jax.ShapeDtypeStruct((groups, length), jnp.int32)
    begin = partial(init, width=width, hidden=hidden, experts=experts, vocab=vocab)
    return Small(begin, partial(forward, kind), partial(loss, kind), (tokens,), tokens, vocab)


def tiny(kind: str = "dense") -> Small:
    """8 devices can split every dim."""
    return model(kind, 16, 32, 8, 16, 8, 16)


def base(kind: str = "dense") -> Small:
    """1.1 G parameters in 64 experts a layer."""
    return model(kind, 2048, 8192, 64, 32768, 64, 1024)


def unrolled(layers: int, width: int = 2048, hidden: int = 8192, experts: int = 64) -> tuple[Callable, tuple]:
    """Every expert on every token, weighted by its gate: loops over layers and experts in Python, for size alone."""

    def expert(w: Tree, x: Array, gate: Array) -> Array:
        return (jax.nn.silu(x @ w["gate"]) * (x @ w["up"])) @ w["down"] * gate[..., None]

    def fun(params: Tree, tokens: Array) -> Array:
        x = params["table"][tokens]
        for layer in params["layers"]:
            inside = norm(x)
            gates = jax.nn.softmax(inside @ layer["router"])
            x = x + sum(expert(w, inside, gates[..., i]) for i, w in enumerate(layer["experts"]))
        return norm(x) @ params["out"]

    def shape(*dims: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dims, jnp.bfloat16)

    def layer() -> Tree:
        one = {"gate": shape(width, hidden), "up": shape(width, hidden), "down": shape(hidden, width)}
        return {"router": shape(width, experts), "experts": [dict(one) for _ in range(experts)]}

    params = {"table": shape(32768, width), "out": shape(width, 32768), "layers": [layer() for _ in range(layers)]}
    return fun, (params, jax.ShapeDtypeStruct((64, 1024), jnp.int32))
