"""Forward and backward of `functional.experts`, and their results."""

from __future__ import annotations

from typing import Any

import torch
from random_layer import RandomLayer

from autoep import functional
from autoep.distributed.communicator import Communicator


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
    """Returns the result, then the gradients."""
    return [backward(run(**given)), *take_gradients(given)]


def buffers_of(given: dict[str, Any]) -> functional.GradBuffers:
    names = functional.GradBuffers._fields
    return functional.GradBuffers(*(torch.ones(given[name].shape) for name in names))


def rank_part(layer: RandomLayer, comm: Communicator, token_splits: list[int]) -> RandomLayer:
    """Returns one rank's share of a layer: its tokens and its experts."""
    first, count = functional.expert_range(layer.shape.experts, comm.size, comm.rank)
    start = sum(token_splits[: comm.rank])
    tokens = slice(start, start + token_splits[comm.rank])
    return layer.part(tokens, slice(first, first + count))
