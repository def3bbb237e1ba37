"""What is said of a router: its maths, found without its weights."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from autoep.routing.maths import RouterMaths, find_router_maths

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SCORES = {"softmax": "softmax", "topk_softmax": "softmax of the chosen", "sigmoid": "sigmoid"}
_GROUPS = {"max": "the best", "top2_sum": "the two best"}


def maths_without_weights(router: nn.Module, num_experts: int) -> RouterMaths | None:
    """Finds what a router computes, on a copy that shares nothing with it.

    Args:
        router: The router; its weights may be on any device, meta too.
        num_experts: E.
    """
    return find_router_maths(_blank(router), num_experts, torch.float32)


def describe_router(router: nn.Module | None, maths: RouterMaths | None) -> str:
    """A router's maths in words."""
    if router is None:
        return "in the block"
    if maths is None:
        return f"its own ({type(router).__name__})"
    options = maths.options
    steps = [_SCORES[options["score"]]]
    if maths.has_selection_bias or maths.takes_selection_bias:
        steps[0] += " (+ bias for the choice)"
    if "group_score" in options:
        steps.append(
            f"{options['topk_groups']} of {options['num_groups']} groups by"
            f" {_GROUPS[options['group_score']]}"
        )
    steps.append(f"top-{maths.top_k}")
    if options["normalize"]:
        steps.append("/ sum")
    if options["scale"] != 1.0:
        steps.append(f"times {options['scale']:g}")
    return ", ".join(steps)


def _blank(module: nn.Module) -> nn.Module:
    """A module of the same class and options, on the CPU in float32, without hooks."""
    blank = object.__new__(type(module))
    blank.__dict__.update(module.__dict__)
    blank.__dict__.pop("forward", None)  # one that was put in its place
    blank.__dict__.update({name: OrderedDict() for name in _HOOKS})
    blank._parameters = {
        name: None if p is None else nn.Parameter(_empty_like(p), requires_grad=p.requires_grad)
        for name, p in module._parameters.items()
    }
    blank._buffers = {
        name: None if buffer is None else _empty_like(buffer)
        for name, buffer in module._buffers.items()
    }
    blank._modules = {
        name: None if part is None else _blank(part) for name, part in module._modules.items()
    }
    return blank


def _empty_like(tensor: torch.Tensor) -> torch.Tensor:
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.zeros(tensor.shape, dtype=dtype, device="cpu")
