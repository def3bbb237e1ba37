"""The bias that a router adds to its scores for the selection only."""

from __future__ import annotations

import torch
from torch import nn

# transformers' names for it: on the router, on a submodule of the router, or on the block.
_NAMES = ("e_score_correction_bias", "expert_bias")


def selection_bias(module: nn.Module, num_experts: int) -> torch.Tensor | None:
    """Returns the selection bias of a router, or of a block that has one router.

    Args:
        module: The router or its block.
        num_experts: E.

    Returns:
        A buffer or parameter of E numbers; None unless there is exactly one.
    """
    found = {
        tensor
        for part in module.modules()
        for name in _NAMES
        for tensor in [getattr(part, name, None)]
        if isinstance(tensor, torch.Tensor) and tensor.numel() == num_experts
    }
    return found.pop() if len(found) == 1 else None
