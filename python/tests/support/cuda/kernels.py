"""The portable kernels, by the names of their files. Swift tests compile every variant."""

from __future__ import annotations

import functools
import re

import torch

from support.cuda import nvrtc

# The numbers of element types, from the header that kernels and launches share.
_HEADER = (nvrtc.KERNELS / "host_and_device.h").read_text()
NONE, F32, BF16, F16 = (
    int(re.search(rf"#define TYPE_{name} (\d+)", _HEADER)[1])
    for name in ("NONE", "F32", "BF16", "F16")
)
CODES = {None: NONE, torch.float32: F32, torch.bfloat16: BF16, torch.float16: F16}


@functools.cache
def load(name: str, **defines: int) -> nvrtc.Module:
    """Loads a file's kernels on the current device, compiled in one of its variants."""
    return nvrtc.Module(f"{name}.cu", tuple(f"{key}={value}" for key, value in defines.items()))
