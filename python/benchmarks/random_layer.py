"""Random layers of experts with their inputs, for benchmarks and tests.

Legend: T tokens, K experts per token, E experts, H hidden size, F FFN size of an expert, G columns
of the first product: 2F with a gate, F without.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# The tensor arguments of `functional.experts`.
NAMES = ("x", "topk_idx", "topk_weights", "gate_up", "gate_up_bias", "down", "down_bias")
CHOICES = ("random", "skewed", "one expert", "even experts")
# Added to the scores (uniform in [0, 1)) of the favoured experts of a skewed layer.
_FAVOUR = 0.8
# An index that is no expert's, on any device.
_OUTSIDE = 2**31 - 1


@dataclass(frozen=True)
class LayerShape:
    """The sizes of a layer and its input, and the computation of its experts.

    Attributes:
        tokens: T.
        top_k: K.
        experts: E.
        hidden: H.
        ffn: F.
        gate: "concatenated", "interleaved" or "none".
        activation: As for `functional.experts`.
        layout: "out_in" or "in_out".
        biases: Whether both products have biases.
    """

    tokens: int
    top_k: int
    experts: int
    hidden: int
    ffn: int
    gate: str = "concatenated"
    activation: str = "silu"
    layout: str = "out_in"
    biases: bool = False

    @property
    def columns(self) -> int:
        """G."""
        return self.ffn if self.gate == "none" else 2 * self.ffn

    @property
    def options(self) -> dict[str, str]:
        """The options of `functional.experts`."""
        return {"activation": self.activation, "gate": self.gate, "layout": self.layout}

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each floating-point tensor of a layer, by name."""
        first, second = (self.columns, self.hidden), (self.hidden, self.ffn)
        if self.layout == "in_out":
            first, second = first[::-1], second[::-1]
        biases = {
            "gate_up_bias": (self.experts, self.columns),
            "down_bias": (self.experts, self.hidden),
        }
        return {
            "x": (self.tokens, self.hidden),
            "topk_weights": (self.tokens, self.top_k),
            "router": (self.experts, self.hidden),
            "gate_up": (self.experts, *first),
            "down": (self.experts, *second),
            "grad_y": (self.tokens, self.hidden),
            **(biases if self.biases else {}),
        }


@dataclass
class RandomLayer:
    """The tensors of a layer, its input and its output's gradient; all but `grad_y` require grad.

    Attributes:
        shape: The sizes.
        x: [T, H].
        topk_idx: [T, K].
        topk_weights: [T, K].
        router: [E, H]; topk_idx does not come from it.
        gate_up: [E, G, H], or [E, H, G] in layout "in_out".
        gate_up_bias: [E, G].
        down: [E, H, F], or [E, F, H].
        down_bias: [E, H].
        grad_y: [T, H].
    """

    shape: LayerShape
    x: Tensor
    topk_idx: Tensor
    topk_weights: Tensor
    router: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    grad_y: Tensor

    def given(self) -> dict[str, Tensor | None]:
        """The tensors that `functional.experts` takes, by name and in its order."""
        return {name: getattr(self, name) for name in NAMES}

    @property
    def inputs(self) -> list[Tensor | None]:
        """The tensors that the experts' result depends on, whose gradients `run` returns."""
        names = ("x", "topk_weights", "gate_up", "down", "gate_up_bias", "down_bias")
        return [getattr(self, name) for name in names]

    def map(self, change: Callable[[Tensor], Tensor]) -> RandomLayer:
        """Returns the layer with changed values; the same tensors require grad."""
        changed = {
            name: change(value.detach()).requires_grad_(value.requires_grad)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        return dataclasses.replace(self, **changed)

    def double(self) -> RandomLayer:
        """Returns the layer in f64, for a reference."""
        return self.map(lambda tensor: tensor.double())

    def clone(self) -> RandomLayer:
        """Returns the layer without its gradients."""
        return self.map(lambda tensor: tensor.clone())

    def part(self, tokens: slice, experts: slice) -> RandomLayer:
        """Returns one rank's share: some of the tokens and some of the experts."""
        by_token = ("x", "topk_idx", "topk_weights", "grad_y")
        pieces = {
            name: value.detach()[tokens if name in by_token else experts]
            .clone()
            .requires_grad_(value.requires_grad)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and name != "router"
        }
        return dataclasses.replace(self, **pieces)

    def run(self, function: Callable[..., Tensor], **options: object) -> list[Tensor | None]:
        """Runs experts forward and backward; returns y and the gradients of `inputs`."""
        y = function(
            self.x,
            self.topk_idx,
            self.topk_weights,
            self.gate_up,
            self.down,
            gate_up_bias=self.gate_up_bias,
            down_bias=self.down_bias,
            **options,
        )
        y.backward(self.grad_y.to(y.dtype))
        return [y.detach(), *(t if t is None else t.grad for t in self.inputs)]


def random_layer(
    shape: LayerShape,
    dtype: torch.dtype = torch.float32,
    *,
    seed: int = 0,
    weight_dtype: torch.dtype | None = None,
    index_dtype: torch.dtype = torch.int64,
    device: str = "cpu",
    choice: str = "random",
    experts_in_use: int | None = None,
    without_expert: int | None = None,
    outside: bool = False,
    signed_weights: bool = False,
    positive: bool = False,
) -> RandomLayer:
    """Builds a layer: the same numbers on every device and, up to rounding, in every dtype.

    Numbers are normal; matrices are scaled so that a product preserves the size of its input.

    Args:
        shape: The sizes.
        dtype: The dtype of all but `topk_weights` and `topk_idx`.
        seed: The seed. A tensor's numbers do not depend on which other tensors exist.
        weight_dtype: The dtype of `topk_weights`; None for `dtype`.
        index_dtype: The dtype of `topk_idx`.
        device: The device of the tensors.
        choice: "random", "skewed" (a quarter of the experts is favoured), "one expert" (the last,
            K times) or "even experts" (no other).
        experts_in_use: Only this many first experts are chosen; fewer than K are repeated.
        without_expert: One in this many slots has no expert: its index is -1.
        outside: Whether some slots have indices that are no experts.
        signed_weights: Whether `topk_weights` are normal; otherwise in [0.1, 1).
        positive: Whether all other numbers are in [0, 1), so that no sum cancels.
    """

    def draw(name: str, scale: float = 1.0) -> Tensor | None:
        if name not in sizes:
            return None
        kind = torch.rand if positive else torch.randn
        values = scale * kind(sizes[name], generator=_generator(seed, name), dtype=torch.float64)
        return values.to(dtype).to(device).requires_grad_(name != "grad_y")

    sizes = shape.sizes()
    idx = _choose(shape, seed, choice, experts_in_use)
    if without_expert is not None:
        idx.view(-1)[::without_expert] = -1
    if outside:
        idx[::3, 0] = shape.experts
        idx[1::4, -1] = -5
        idx[2::7] = _OUTSIDE
    return RandomLayer(
        shape,
        x=draw("x"),
        topk_idx=idx.to(index_dtype).to(device),
        topk_weights=_weigh(shape, seed, signed_weights)
        .to(dtype if weight_dtype is None else weight_dtype)
        .to(device)
        .requires_grad_(),
        router=draw("router", shape.hidden**-0.5),
        gate_up=draw("gate_up", shape.hidden**-0.5),
        gate_up_bias=draw("gate_up_bias"),
        down=draw("down", shape.ffn**-0.5),
        down_bias=draw("down_bias"),
        grad_y=draw("grad_y"),
    )


def _generator(seed: int, name: str) -> torch.Generator:
    """Returns a generator per tensor, so that numbers do not depend on preceding tensors."""
    # torch's generator uses only the lower 32 bits of a seed.
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))


def _choose(shape: LayerShape, seed: int, choice: str, experts_in_use: int | None) -> Tensor:
    """Returns topk_idx, [T, K]."""
    if choice not in CHOICES:
        raise ValueError(f"choice: expected one of {CHOICES}, got {choice!r}")
    tokens, top_k, experts = shape.tokens, shape.top_k, shape.experts
    if choice == "one expert":
        return torch.full((tokens, top_k), experts - 1)
    in_use = experts if experts_in_use is None else experts_in_use
    scores = torch.rand(tokens, in_use, generator=_generator(seed, "topk_idx"))
    if choice == "skewed":
        scores[:, : max(top_k, in_use // 4)] += _FAVOUR
    if choice == "even experts":
        scores[:, 1::2] = -1
    idx = scores.topk(min(top_k, in_use)).indices
    times = -(-top_k // idx.shape[1])
    return idx.repeat(1, times)[:, :top_k].clone()


def _weigh(shape: LayerShape, seed: int, signed: bool) -> Tensor:
    """Returns topk_weights, [T, K] in f64."""
    generator = _generator(seed, "topk_weights")
    size = (shape.tokens, shape.top_k)
    if signed:
        return torch.randn(size, generator=generator, dtype=torch.float64)
    return 0.1 + 0.9 * torch.rand(size, generator=generator, dtype=torch.float64)
