"""The engine, with a record of a layer's calls."""

from __future__ import annotations

from typing import Any

import torch

from autoep.core.native import engine
from autoep.functional._experts import ExpertsGradients


class WatchedEngine:
    """Wraps the extension and forwards every call.

    Attributes:
        forwards: Per forward, the dtype of x and whether the call made its plan.
        backwards: Per backward, its gradients by name, and its flags.
        workspaces: The flags of each query of a backward's workspace.
    """

    def __init__(self) -> None:
        self.forwards: list[dict[str, Any]] = []
        self.backwards: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(engine, name)

    def layer_forward(self, context: Any, layer: Any, weights: tuple, *others: Any) -> None:
        x, topk_weights, topk_idx = others[:3]
        _check(*weights, x, topk_weights, topk_idx)
        self.forwards.append({"dtype": x.dtype, "makes the plan": topk_idx is not None})
        engine.layer_forward(context, layer, weights, *others)

    def layer_backward(self, context: Any, layer: Any, weights: tuple, *others: Any) -> None:
        grad_y, x, topk_weights, _, *_size, _, overwrite_saved = others[:9]
        grad_x, grad_topk_weights, grad_weights, accumulate, workspace = others[9:]
        gradients = ExpertsGradients(grad_x, grad_topk_weights, *grad_weights)
        _check(*weights, grad_y, x, topk_weights, *gradients)
        self.backwards.append(
            {
                "wanted": [gradient is not None for gradient in gradients],
                "in place": overwrite_saved,
                "accumulate": accumulate,
                "workspace": len(workspace),
            }
        )
        engine.layer_backward(context, layer, weights, *others)


def _check(*tensors: torch.Tensor | None) -> None:
    """Checks the extension's requirements on memory."""
    for tensor in tensors:
        assert tensor is None or (tensor.is_contiguous() and not tensor.requires_grad)
