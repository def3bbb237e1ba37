"""The portable kernels: files and their preludes. Swift tests compile every variant."""

from __future__ import annotations

import functools

import torch

from support.cuda import nvrtc

F32, BF16, F16 = 1, 2, 3
CODES = {None: 0, torch.float32: F32, torch.bfloat16: BF16, torch.float16: F16}

_BASE = ("instructions.cuh", "element.cuh")
_FAULTS = (*_BASE, "fault.cuh")
_TILES = (
    *_BASE,
    *("operand.cuh", "groups.cuh", "f32_tile.cuh", "chunk.cuh", "tensor_core_tile.cuh"),
)

PARTS = {
    "sort_by_expert": (*_FAULTS, "sort_by_expert.cu"),
    "permute": (*_BASE, "permute.cu"),
    "unpermute": (*_BASE, "unpermute.cu"),
    "slot_dot": (*_BASE, "slot_dot.cu"),
    "gather_partials": (*_BASE, "gather_partials.cu"),
    "activate": (*_BASE, "activation.cuh", "activate.cu"),
    "activate_backward": (*_BASE, "activation.cuh", "activate_backward.cu"),
    "row_sum": (*_BASE, "groups.cuh", "row_sum.cu"),
    "portable_grouped_gemm": (*_TILES, "portable_grouped_gemm.cu"),
    "portable_weight_gradient": (*_TILES, "portable_weight_gradient.cu"),
    "router_logits": (*_BASE, "chunk.cuh", "router_logits.cu"),
    "route": (*_FAULTS, "router.cuh", "route.cu"),
    "route_backward": (*_FAULTS, "router.cuh", "route_backward.cu"),
    "z_loss": (*_BASE, "z_loss.cu"),
    "jitter": (*_BASE, "jitter.cu"),
    "clear": ("clear.cu",),
}


@functools.cache
def load(name: str, **defines: int) -> nvrtc.Module:
    """A file's kernels on the current device, compiled in one of its variants."""
    return nvrtc.Module(PARTS[name], tuple(f"{key}={value}" for key, value in defines.items()))
