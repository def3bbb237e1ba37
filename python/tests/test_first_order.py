"""The engine has no second derivatives: asking for one is an error, not a wrong number."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint

from autoep import functional
from autoep.errors import UnsupportedError


def test_a_gradient_penalty_is_refused() -> None:
    weights = torch.randn(2, 8, 4, requires_grad=True), torch.randn(2, 4, 4, requires_grad=True)
    x = torch.randn(3, 4, requires_grad=True)
    idx = torch.tensor([[0], [1], [1]])
    y = functional.experts(x, idx, torch.ones(3, 1), *weights)
    with pytest.raises(UnsupportedError, match="create_graph"):
        torch.autograd.grad(y.square().sum(), weights[0], create_graph=True)


def test_gradients_within_a_recomputation_are_not() -> None:
    """A backward that runs another, as reentrant checkpointing does."""
    x = torch.randn(3, 4, requires_grad=True)
    routing = torch.tensor([[0], [1], [1]])

    def layer(x: torch.Tensor) -> torch.Tensor:
        weights = torch.ones(2, 8, 4), torch.ones(2, 4, 4)
        return functional.experts(x, routing, torch.ones(3, 1), *weights)

    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=True).sum().backward()
    assert x.grad is not None
    assert x.grad.any()
