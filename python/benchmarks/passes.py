"""The passes that are timed: of a whole layer, and of its experts alone.

Legend: T tokens, K experts per token, E experts, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from layers import WITH_EXPERTS, router_weight
from measure import Call
from shapes import Shape
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """The properties that the passes of one line of the table share.

    Attributes:
        shape: The shape of the layer.
        tokens: T.
        dtype: "f32" or "bf16".
        routing: "balanced" or "skewed".
    """

    shape: Shape
    tokens: int
    dtype: str
    routing: str

    @property
    def name(self) -> str:
        """The name in tables."""
        shape = f"{self.shape.name}, {self.shape.experts} experts"
        return f"{shape}, {self.tokens} tokens, {self.dtype}, {self.routing}"

    def columns(self) -> dict[str, str | int]:
        """The first columns of every row of the case."""
        return {
            "shape": self.shape.name,
            "experts": self.shape.experts,
            "tokens": self.tokens,
            "dtype": self.dtype,
            "routing": self.routing,
        }


@dataclass(frozen=True)
class Pass:
    """A call to time.

    Attributes:
        part: The part of the layer that it computes.
        layer: The name of the layer.
        name: The name of the pass.
        flops: The number of its operations.
        call: The function that runs it.
    """

    part: str
    layer: str
    name: str
    flops: int
    call: Call


class Passes:
    """The passes of a module on one set of inputs."""

    def __init__(self, module: nn.Module, *inputs: Tensor) -> None:
        self._module = module
        self._inputs = inputs
        x = inputs[0]
        generator = torch.Generator(x.device.type).manual_seed(2)
        self._grad_y = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def forward(self) -> None:
        """Runs a forward that saves nothing."""
        with torch.no_grad():
            self._module(*self._inputs)

    def forward_backward(self) -> None:
        """Runs a forward and backward; frees the gradients."""
        y = self._module(*self._inputs)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(self._grad_y.view(y.shape))
        for tensor in (*self._inputs, *self._module.parameters()):
            tensor.grad = None

    def both(self, part: str, layer: str, forward_flops: int) -> Iterator[Pass]:
        """Yields the forward, and the forward with backward, to time."""
        yield Pass(part, layer, "forward", forward_flops, self.forward)
        yield Pass(part, layer, "forward+backward", 3 * forward_flops, self.forward_backward)


class _ExpertsOf(nn.Module):
    """A layer without its router."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_TH: Tensor, topk_idx: Tensor, topk_weights: Tensor) -> Tensor:
        """Maps [T, H] to [T, H]."""
        return self.layer.experts(x_TH, topk_idx, topk_weights)


def layer_passes(
    case: Case, layers: dict[str, nn.Module], x: Tensor, part: str = "layer"
) -> Iterator[Pass]:
    """Yields the passes of router and experts."""
    for name, layer in layers.items():
        passes = Passes(layer, x)
        yield from passes.both(part, name, case.shape.forward_flops(case.tokens))


def experts_passes(
    case: Case, layers: dict[str, nn.Module], x: Tensor, chosen: tuple[Tensor, Tensor]
) -> Iterator[Pass]:
    """Yields the passes of the experts alone, all with the same choices and weights."""
    topk_idx, topk_weights = chosen
    x_TH = x.detach().reshape(case.tokens, -1).requires_grad_()
    for name, layer in layers.items():
        if name not in WITH_EXPERTS:
            continue
        passes = Passes(_ExpertsOf(layer), x_TH, topk_idx, topk_weights)
        yield from passes.both("experts", name, case.shape.forward_flops(case.tokens))


@torch.no_grad()
def choose(case: Case, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each token's experts and their weights, [T, K], from a layer's router."""
    logits_TE = x.reshape(case.tokens, -1) @ router_weight(layer, case.shape).t()
    weights_TK, topk_idx = logits_TE.float().softmax(-1).topk(case.shape.top_k)
    weights_TK /= weights_TK.sum(-1, keepdim=True)
    return topk_idx, weights_TK.requires_grad_()
