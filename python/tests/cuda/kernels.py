"""The portable kernels, by the names of their files. Swift tests compile every variant."""

from __future__ import annotations

import functools

import nvrtc
import torch

F32, BF16, F16 = 1, 2, 3
CODES = {None: 0, torch.float32: F32, torch.bfloat16: BF16, torch.float16: F16}


@functools.cache
def load(name: str, **defines: int) -> nvrtc.Module:
    """A file's kernels on the current device, compiled in one of its variants."""
    return nvrtc.Module(f"{name}.cu", tuple(f"{key}={value}" for key, value in defines.items()))
