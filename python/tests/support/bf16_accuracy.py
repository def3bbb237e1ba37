"""The errors of bfloat16 paths against float64, the engine's by the side of transformers'."""

from __future__ import annotations

import statistics

import torch
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from autoep import functional

TOKENS, HIDDEN, FFN, EXPERTS, TOP_K = 96, 64, 96, 8, 2
SEEDS = 20
# No error of ours may be larger than this times theirs, in the median.
MARGIN = 1.1


class Layer:
    """One layer's experts with inputs that bfloat16 holds, and a choice that all paths share."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self.device = device
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
            return (scale * torch.randn(shape, generator=generator)).bfloat16().to(device)

        self.gate_up = draw(EXPERTS, 2 * FFN, HIDDEN, scale=HIDDEN**-0.5)
        self.down = draw(EXPERTS, HIDDEN, FFN, scale=FFN**-0.5)
        self.x = draw(TOKENS, HIDDEN)
        self.grad_y = draw(TOKENS, HIDDEN)
        scores = torch.rand(TOKENS, EXPERTS, generator=generator)
        self.idx = scores.topk(TOP_K).indices.to(device)
        self.weights = draw(TOKENS, TOP_K).sigmoid()

    def run(self, path: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The result and the gradients of 1000 elements and more, in float64."""
        config = MixtralConfig(hidden_size=HIDDEN, intermediate_size=FFN, num_local_experts=EXPERTS)
        config._experts_implementation = "eager" if path == "autoep" else path
        experts = MixtralExperts(config).to(self.device, dtype)
        with torch.no_grad():
            experts.gate_up_proj.copy_(self.gate_up)
            experts.down_proj.copy_(self.down)
        x = self.x.clone().to(dtype).requires_grad_()
        weights = self.weights.to(dtype)
        if path == "autoep":
            y = functional.experts(x, self.idx, weights, experts.gate_up_proj, experts.down_proj)
        else:
            y = experts(x, self.idx, weights)
        y.backward(self.grad_y.to(dtype))
        found = {
            "y": y.detach(),
            "grad_x": x.grad,
            "grad_gate_up": experts.gate_up_proj.grad,
            "grad_down": experts.down_proj.grad,
        }
        assert all(tensor.numel() >= 1000 for tensor in found.values())
        return {name: tensor.double() for name, tensor in found.items()}


def median_ratios(peer: str, device: str) -> dict[str, float]:
    """Errors of the engine over those of one of transformers' paths, by tensor."""
    ratios: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        layer = Layer(seed, device)
        exact = layer.run("eager", torch.float64)
        ours = layer.run("autoep", torch.bfloat16)
        theirs = layer.run(peer, torch.bfloat16)
        for name, reference in exact.items():
            error = (ours[name] - reference).norm() / (theirs[name] - reference).norm()
            ratios.setdefault(name, []).append(error.item())
    return {name: statistics.median(values) for name, values in ratios.items()}
