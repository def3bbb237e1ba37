"""Forward and backward of `functional.experts`, and what they leave."""

from __future__ import annotations

from typing import Any

import torch

from autoep import functional
from support.compare import assert_same_bits

NAMES = ("x", "topk_idx", "topk_weights", "gate_up", "gate_up_bias", "down", "down_bias")


def backward(y: torch.Tensor) -> torch.Tensor:
    y.backward(torch.ones_like(y) + 0.5 * y.detach())
    return y.detach()


def take_gradients(given: dict[str, torch.Tensor | None]) -> list[torch.Tensor | None]:
    leaves = [t for t in given.values() if t is not None and t.is_floating_point()]
    gradients = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return gradients


def results(given: dict[str, torch.Tensor | None], run: Any = functional.experts) -> list[Any]:
    """The result, then the gradients."""
    return [backward(run(**given)), *take_gradients(given)]


def assert_all_same_bits(actual: list[Any], expected: list[Any]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert_same_bits(a, e)


def buffers_of(given: dict[str, Any]) -> functional.GradBuffers:
    names = functional.GradBuffers._fields
    return functional.GradBuffers(*(torch.ones(given[name].shape) for name in names))
