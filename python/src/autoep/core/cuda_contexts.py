"""GPU contexts, one per device and stream. Imported when a CUDA tensor is given."""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path

import torch

from autoep.core.native import engine

_CUDA = 2  # AUTOEP_DEVICE_CUDA

# By device and stream. A forked child creates its own.
_contexts: dict[tuple[int, int], engine.Handle] = {}
os.register_at_fork(after_in_child=_contexts.clear)


def cuda_context(device: int) -> engine.Handle:
    """Returns the context of a device and its current stream, created on first use.

    Args:
        device: The device's number.
    """
    stream = torch._C._cuda_getCurrentRawStream(device)
    key = (device, stream)
    known = _contexts.get(key)
    if known is None:
        # If two threads race here, one context is dropped; it owns nothing.
        made = engine.context_create(_CUDA, device, 0, stream, nvrtc_path())
        known = _contexts.setdefault(key, made)
    return known


def cuda_contexts() -> list[engine.Handle]:
    """Returns the contexts that this process has created."""
    return list(_contexts.copy().values())


@functools.cache
def nvrtc_path() -> str | None:
    """Returns the path of NVRTC in the packages that PyTorch came with."""
    nvidia = importlib.util.find_spec("nvidia")
    if nvidia is None or torch.version.cuda is None:
        return None
    major = torch.version.cuda.partition(".")[0]
    for root in nvidia.submodule_search_locations or ():
        for folder in (f"cu{major}", "cuda_nvrtc"):
            library = Path(root, folder, "lib", f"libnvrtc.so.{major}")
            if library.exists():
                return str(library)
    return None
