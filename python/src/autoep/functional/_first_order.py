"""Backwards that cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from autoep.errors import UnsupportedError


def first_order_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a backward of an autograd function raise where its own gradient would be wanted.

    torch's `once_differentiable` raises later, when that gradient is asked for by way of its
    results, and not at all where it is asked for a parameter only: the engine's part is then
    missing, silently.
    """

    @functools.wraps(backward)
    def checked(*arguments: Any) -> Any:
        # With create_graph=True a backward runs with gradients enabled; traced, it may anyway.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise UnsupportedError(
                "the engine's gradients cannot be differentiated again: call backward or"
                " torch.autograd.grad without create_graph=True"
            )
        return backward(*arguments)

    return checked
