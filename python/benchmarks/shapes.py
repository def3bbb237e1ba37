"""The layers that benchmarks and tests compute: their shapes and their routing."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from random_layer import LayerShape

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}
ROUTER_STD = 0.02
# The favoured share of a skewed layer's routed copies, and of its experts.
_SKEWED_SHARE, _FAVOURED = 1 / 2, 1 / 8


@dataclass(frozen=True)
class Shape:
    """A layer of gated experts.

    Attributes:
        name: The name in tables.
        hidden: H.
        ffn: F.
        experts: E.
        top_k: K.
        tokens: The values of T to measure.
    """

    name: str
    hidden: int
    ffn: int
    experts: int
    top_k: int
    tokens: tuple[int, ...]

    def forward_flops(self, tokens: int) -> int:
        """Returns the operations of the products; forward and backward take three times as many."""
        return 6 * tokens * self.top_k * self.hidden * self.ffn

    def layer(self, tokens: int) -> LayerShape:
        """Returns the sizes of its tensors."""
        return LayerShape(tokens, self.top_k, self.experts, self.hidden, self.ffn)

    def with_experts(self, experts: int) -> Shape:
        """Returns the shape with another number of experts and the same work per token."""
        return replace(self, experts=experts)


CUDA_SHAPES = (
    Shape("qwen3_30b_a3b", 2048, 768, 128, 8, (4096, 16384, 32768)),
    Shape("olmoe_1b_7b", 2048, 1024, 64, 8, (4096, 16384, 32768)),
    Shape("dsv3_32local", 7168, 2048, 32, 8, (4096, 16384, 32768)),
    Shape("mixtral_8x7b", 4096, 14336, 8, 2, (4096, 16384, 32768)),
)
CPU_SHAPES = (
    Shape("mixtral_block", 512, 1024, 8, 2, (128, 512, 2048, 8192)),
    Shape("olmoe_like", 2048, 1024, 64, 8, (128, 512, 2048, 8192)),
    Shape("qwen3_like", 1024, 384, 64, 8, (128, 512, 2048, 8192)),
)
SHAPES = {"cuda": CUDA_SHAPES, "cpu": CPU_SHAPES}


def shape_named(name: str) -> Shape:
    """Finds a shape by its name."""
    return next(shape for shapes in SHAPES.values() for shape in shapes if shape.name == name)


def tokens_of(shape: Shape, tokens: int, dtype: torch.dtype, device: str) -> torch.Tensor:
    """Returns [1, T, H] of normal numbers; each token's first number, which `skew` uses, is 1."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(1, tokens, shape.hidden, generator=generator, device=device, dtype=dtype)
    x[..., 0] = 1.0
    return x.requires_grad_()


@torch.no_grad()
def skew(router_weight_EH: torch.Tensor, shape: Shape, skewed: bool) -> None:
    """Sets the router's column for the tokens' first number: a bias on the logits.

    If skewed, an eighth of the experts gets half of the routed copies; else all are equally
    likely.
    """
    favoured = max(1, round(shape.experts * _FAVOURED))
    router_weight_EH[:, 0] = 0.0
    if skewed:
        router_weight_EH[:favoured, 0] = _bias(shape, favoured)


@functools.cache
def _bias(shape: Shape, favoured: int) -> float:
    """Returns the bias on the favoured experts' logits for their share, by bisection."""
    generator = torch.Generator().manual_seed(0)
    std = ROUTER_STD * shape.hidden**0.5
    logits_TE = torch.randn(2048, shape.experts, generator=generator) * std
    low, high = 0.0, 16.0 * std
    for _ in range(30):
        bias = (low + high) / 2
        biased_TE = logits_TE.clone()
        biased_TE[:, :favoured] += bias
        share = (biased_TE.topk(shape.top_k).indices < favoured).float().mean().item()
        low, high = (bias, high) if share < _SKEWED_SHARE else (low, bias)
    return high
