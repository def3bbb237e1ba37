"""Backwards that cannot be differentiated again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from autoep.errors import UnsupportedError


def first_order_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Makes the backward of an autograd function raise if it is differentiated itself.

    torch's `once_differentiable` raises later, when the second derivative passes through the
    backward's results, and not at all if only a parameter's is requested: the engine's part
    would then be missing silently.
    """

    @functools.wraps(backward)
    def checked(*arguments: Any) -> Any:
        # With create_graph=True a backward runs with gradients enabled; under tracing always.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise UnsupportedError(
                "the engine's gradients cannot be differentiated again: call backward or"
                " torch.autograd.grad without create_graph=True"
            )
        return backward(*arguments)

    return checked
