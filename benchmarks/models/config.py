"""Sizes and choices that make one transformer: the only thing in which the models of the zoo differ."""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclass(frozen=True)
class Config:
    """A decoder-only transformer.

    Attributes:
        layers: Number of blocks.
        d_model: Width of the residual stream, E.
        d_ff: Width inside the MLP, F.
        heads: Query heads, H.
        kv_heads: Key and value heads, KV: 1 is multiquery, `heads` is multihead, between is grouped-query.
        d_head: Width of a head, D.
        vocab: Size of the vocabulary, V.
        block: "parallel" adds attention and MLP of one norm; "serial" has a second norm and the MLP after
            attention.
        activation: "swiglu" has a gate and three matrices, "gelu" has two.
        norm: "layernorm" or "rmsnorm", without bias either way.
        positions: "rotary" turns queries and keys, "learned" adds a table to the embedding.
        tied: The output projection is the embedding, transposed.
        max_length: Rows of the learned position table; no other meaning.
        theta: Base of the rotary wavelengths.
        dtype: Of weights, activations and cache. Norms and logits are float32.
        float32_scores: Scores of attention and their softmax are float32, not `dtype`; T5X has them in `dtype`.
        scan: Layers are stacked and run under `lax.scan`; otherwise they are a tuple and unrolled.
    """

    layers: int
    d_model: int
    d_ff: int
    heads: int
    kv_heads: int
    d_head: int
    vocab: int
    block: Literal["parallel", "serial"]
    activation: Literal["swiglu", "gelu"]
    norm: Literal["layernorm", "rmsnorm"]
    positions: Literal["rotary", "learned"]
    tied: bool
    max_length: int = 2048
    theta: float = 10_000.0
    dtype: DTypeLike = jnp.bfloat16
    float32_scores: bool = True
    scan: bool = True

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.kv_heads} kv_heads do not divide {self.heads} heads; choose a divisor")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"rotary positions turn pairs, but d_head is {self.d_head}; make it even")

    @property
    def attention(self) -> Literal["multiquery", "grouped", "multihead"]:
        """The kind of attention that the numbers of heads imply."""
        if self.kv_heads == 1:
            return "multiquery"
        return "multihead" if self.kv_heads == self.heads else "grouped"

    @property
    def kv_shape(self) -> tuple[int, ...]:
        """Shape of one token's keys in one layer: [KV, D], or [D] where there is a single head."""
        return (self.d_head,) if self.attention == "multiquery" else (self.kv_heads, self.d_head)


def shrink(config: Config) -> Config:
    """The same architecture in float32, small enough for a CPU; every dim but `layers` is a multiple of 8."""
    heads, kv_heads = {"multiquery": (8, 1), "grouped": (16, 8), "multihead": (8, 8)}[config.attention]
    return replace(
        config,
        layers=2,
        d_model=32,
        d_ff=64,
        heads=heads,
        kv_heads=kv_heads,
        d_head=8,
        vocab=64,
        max_length=64,
        dtype=jnp.float32,
    )
