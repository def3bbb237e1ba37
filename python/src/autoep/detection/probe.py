"""Checking a spec by numbers: what the experts' own code computes against what the engine will.

Both compute a few tokens with small random weights, on a copy of the module that shares none of
the model's tensors and draws no number of its random state. What a spec leaves out (a bias, a
norm, another activation or layout) then shows before a model is changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn

from autoep.comm import Communicator
from autoep.detection.spec import MoELayer
from autoep.errors import ModelError
from autoep.experts_module import run_experts

_TOLERANCE = 1e-4
# What is computed, at most. The other sizes are the model's: modules may know them.
_TOKENS, _TOP_K, _FFN_SIZE = 6, 2, 4


def check_specs(layers: list[MoELayer]) -> None:
    """Raises where the experts of a layer do not compute what their spec says.

    Layers of one class, spec and size are alike, and one of them is computed.

    Raises:
        ModelError: The numbers differ, or the experts' own code cannot be run.
    """
    alike = {
        (type(layer.experts), layer.spec, layer.num_experts, layer.hidden_size): layer
        for layer in reversed(layers)
    }
    for layer in alike.values():
        _check(layer)


def _check(layer: MoELayer) -> None:
    generator = torch.Generator().manual_seed(0)
    twin = _twin(layer, generator)
    x_TH = torch.randn(_TOKENS, layer.hidden_size, generator=generator)
    scores_TE = torch.rand(_TOKENS, layer.num_experts, generator=generator)
    topk_weights_TK, topk_idx_TK = scores_TE.topk(min(_TOP_K, layer.num_experts))
    with torch.no_grad():
        try:
            expected_TH = _own_forward(twin)(x_TH, topk_idx_TK, topk_weights_TK)
        except Exception as error:
            raise _unlike(layer, f"calling it so fails: {error}") from error
        found_TH = run_experts(
            twin,
            x_TH,
            topk_idx_TK,
            topk_weights_TK,
            num_experts=layer.num_experts,
            comm=Communicator.alone(),
            spec=layer.spec,
        )
    _compare(layer, found_TH, expected_TH)


def _compare(layer: MoELayer, found: torch.Tensor, expected: object) -> None:
    if not isinstance(expected, torch.Tensor) or expected.shape != found.shape:
        raise _unlike(layer, f"it returns {getattr(expected, 'shape', type(expected).__name__)}")
    error = ((found - expected).norm() / expected.norm()).item()
    if not error <= _TOLERANCE:
        raise _unlike(layer, f"on random numbers its result differs by {error:.2g} of its norm")


def _unlike(layer: MoELayer, how: str) -> ModelError:
    return ModelError(
        f"{layer.name}: {type(layer.experts).__name__} does not compute what its layout and its"
        f" activation say, so the engine cannot stand in for it: {how}. Set"
        " expert_parallel.enabled to false to train it without expert parallelism."
    )


def _own_forward(experts: nn.Module) -> Callable[..., torch.Tensor]:
    """The class's own forward: not an implementation that transformers would choose instead."""
    forward = type(experts).forward
    return getattr(forward, "__wrapped__", forward).__get__(experts)


def _twin(layer: MoELayer, generator: torch.Generator) -> nn.Module:
    """A copy of the experts with other weights, on the CPU, and of a smaller F."""
    spec = layer.spec
    shapes = spec.weight_shapes(
        layer.num_experts, layer.hidden_size, min(layer.ffn_size, _FFN_SIZE)
    )
    others: dict[int, object] = {}
    for name, parameter in layer.experts.named_parameters():
        values = torch.randn(shapes.get(name, parameter.shape), generator=generator)
        if name in (spec.gate_up, spec.down):
            values /= values.shape[1 if spec.layout == "in_out" else 2] ** 0.5
        others[id(parameter)] = nn.Parameter(values, requires_grad=False)
    config = getattr(layer.experts, "config", None)
    others[id(config)] = config
    others[id(vars(layer.experts).get("forward"))] = None  # that of an earlier initialize
    return copy.deepcopy(layer.experts, others)
