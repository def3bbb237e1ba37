"""The errors of bfloat16 paths against float64, the engine's beside transformers'."""

from __future__ import annotations

import statistics

import torch
from random_layer import LayerShape, RandomLayer, random_layer
from transformers.models.mixtral.configuration_mixtral import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from autoep import functional

SHAPE = LayerShape(tokens=96, top_k=2, experts=8, hidden=64, ffn=96)
SEEDS = 20
# The median error of the engine may be at most this many times that of transformers.
MARGIN = 1.1


def run(layer: RandomLayer, path: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Returns the result and the gradients with at least 1000 elements, in float64."""
    config = MixtralConfig(
        hidden_size=SHAPE.hidden, intermediate_size=SHAPE.ffn, num_local_experts=SHAPE.experts
    )
    config._experts_implementation = "eager" if path == "autoep" else path
    experts = MixtralExperts(config).to(layer.x.device, dtype)
    with torch.no_grad():
        experts.gate_up_proj.copy_(layer.gate_up)
        experts.down_proj.copy_(layer.down)
    x = layer.x.detach().clone().to(dtype).requires_grad_()
    weights = layer.topk_weights.detach().to(dtype)
    if path == "autoep":
        y = functional.experts(x, layer.topk_idx, weights, experts.gate_up_proj, experts.down_proj)
    else:
        y = experts(x, layer.topk_idx, weights)
    y.backward(layer.grad_y.to(dtype))
    found = {
        "y": y.detach(),
        "grad_x": x.grad,
        "grad_gate_up": experts.gate_up_proj.grad,
        "grad_down": experts.down_proj.grad,
    }
    assert all(tensor.numel() >= 1000 for tensor in found.values())
    return {name: tensor.double() for name, tensor in found.items()}


def median_ratios(peer: str, device: str) -> dict[str, float]:
    """Returns the engine's errors divided by those of one of transformers' paths, by tensor."""
    ratios: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        # Numbers that bfloat16 represents exactly, and a choice that all paths share.
        layer = random_layer(SHAPE, torch.bfloat16, seed=seed, device=device)
        exact = run(layer, "eager", torch.float64)
        ours = run(layer, "autoep", torch.bfloat16)
        theirs = run(layer, peer, torch.bfloat16)
        for name, reference in exact.items():
            error = (ours[name] - reference).norm() / (theirs[name] - reference).norm()
            ratios.setdefault(name, []).append(error.item())
    return {name: statistics.median(values) for name, values in ratios.items()}
