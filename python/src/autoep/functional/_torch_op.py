"""The torch operations by name, for functions that take torch tensors and numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def torch_op(name: str) -> Callable[..., Any]:
    """Returns an operation of autograd; torch is imported here, and nowhere before."""
    from autoep.functional import _torch

    return _torch.OPERATIONS[name]
