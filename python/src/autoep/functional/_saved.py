"""Whether a backward may overwrite what its torch.autograd.Function saved."""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx

# Available since torch 2.8.
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def is_kept_as_it_is() -> bool:
    """Whether certainly no saved-tensor hook (offload, checkpoint) sees what a forward saves."""
    if _top_hooks is None or torch.compiler.is_compiling():
        return False
    return _top_hooks(True) is None


def take_saved(ctx: FunctionCtx, saved: torch.Tensor) -> bool:
    """Whether the backward may use the saved bytes as scratch memory.

    If so, they are marked as modified: a second backward, after one that failed midway, raises.

    Args:
        ctx: Has `is_saved_ours` from the forward.
        saved: The bytes that the forward saved.
    """
    if not ctx.is_saved_ours or torch._C._autograd._get_current_graph_task_keep_graph():
        return False
    torch.autograd.graph.increment_version(saved)
    return True
