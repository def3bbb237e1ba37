"""Expert parallelism for HuggingFace Mixture-of-Experts models.

`autoep.initialize(...)` shards a model's experts over the ranks; `autoep.functional` has the
single operations. With both imported, "autoep" names an implementation
of experts and of expert parallelism in transformers. Importing this package loads neither torch,
transformers nor the engine: each is loaded when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autoep.errors import (
    CheckpointError,
    CommunicationError,
    ConfigError,
    DeadlineError,
    Error,
    InternalError,
    InvalidArgumentError,
    InvalidHandleError,
    MissingLibraryError,
    ModelError,
    OutOfMemoryError,
    UnsupportedError,
)
from autoep.integrations.registry import register_implementations

if TYPE_CHECKING:
    from autoep import functional
    from autoep.distributed.communicator import Communicator
    from autoep.inspection import inspect
    from autoep.training.initialize import initialize

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "CommunicationError",
    "Communicator",
    "ConfigError",
    "DeadlineError",
    "Error",
    "InternalError",
    "InvalidArgumentError",
    "InvalidHandleError",
    "MissingLibraryError",
    "ModelError",
    "OutOfMemoryError",
    "UnsupportedError",
    "functional",
    "initialize",
    "inspect",
]

# The names that are loaded on first use, and their modules.
_LAZY = {
    "initialize": "autoep.training.initialize",
    "inspect": "autoep.inspection",
    "Communicator": "autoep.distributed.communicator",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(_load(_LAZY[name]), name)
    if name == "functional":
        return importlib.import_module("autoep.functional")
    raise AttributeError(f"module 'autoep' has no attribute {name!r}")


def _load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingLibraryError(
            f"{module} needs torch, which is not installed; install the training"
            " libraries with `pip install './python[train]'`"
        ) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_implementations()
