"""Whether what a torch.autograd.Function has saved may be overwritten by its backward."""

from __future__ import annotations

import torch


def is_kept_as_it_is() -> bool:
    """Whether no hook of the script sees the tensors that a forward saves."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def is_last_backward() -> bool:
    """Whether nothing that a forward has saved is read after this backward."""
    return not torch._C._autograd._get_current_graph_task_keep_graph()
