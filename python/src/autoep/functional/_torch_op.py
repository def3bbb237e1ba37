"""The torch operations by name, for functions that take torch tensors and numpy arrays.

The operations import the functions, so the functions must not import the operations: the package
registers how to load them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Operations = Mapping[str, Callable[..., Any]]

_load: Callable[[], Operations] | None = None


def load_operations_with(load: Callable[[], Operations]) -> None:
    """Sets the function that loads the operations when the first torch tensor is given."""
    global _load
    _load = load


def torch_op(name: str) -> Callable[..., Any]:
    """Returns an autograd operation by name."""
    assert _load is not None, "autoep.functional sets it"
    return _load()[name]
