"""Whether what a torch.autograd.Function has saved may be overwritten by its backward."""

from __future__ import annotations

import torch
from torch.autograd.function import FunctionCtx

# torch has it since 2.8.
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def is_kept_as_it_is() -> bool:
    """Whether it is known that no hook of the script sees the tensors that a forward saves."""
    if _top_hooks is None or torch.compiler.is_compiling():
        return False
    return _top_hooks(True) is None


def take_saved(ctx: FunctionCtx, saved: torch.Tensor) -> bool:
    """Whether the backward may work in the memory that the engine's forward saved.

    If so it counts as changed: a second backward, after one that failed on its way, is refused.

    Args:
        ctx: Has `is_saved_ours`, of the forward.
        saved: What the forward saved.
    """
    if not ctx.is_saved_ours or torch._C._autograd._get_current_graph_task_keep_graph():
        return False
    torch.autograd.graph.increment_version(saved)
    return True
