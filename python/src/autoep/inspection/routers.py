"""The description of a router: its maths, found without its weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoep.layers.spec import MoELayer
from autoep.routers.maths import RouterMaths, find_router_maths

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_SCORES = {"softmax": "softmax", "topk_softmax": "softmax of the chosen", "sigmoid": "sigmoid"}
_GROUPS = {"max": "the best", "top2_sum": "the two best"}


def maths_without_weights(layer: MoELayer) -> RouterMaths | None:
    """Finds the maths of a layer's router, on a copy that shares nothing with it.

    Args:
        layer: The layer; its weights may be on any device, meta too.
    """
    if layer.router is None:
        return None
    return find_router_maths(_blank(layer.router), layer.num_experts, torch.float32)


def describe_router(layer: MoELayer, maths: RouterMaths | None) -> str:
    """Returns a router's maths in words."""
    if maths is not None:
        has_bias = maths.has_selection_bias or maths.takes_selection_bias
        return _words(maths.options, maths.top_k, has_bias)
    if layer.routing is not None and layer.routing.score in _SCORES:
        return _words(vars(layer.routing), layer.routing.top_k, has_bias=False)
    return f"its own ({type(layer.router or layer.block).__name__})"


def _words(options: Mapping[str, Any], top_k: int, has_bias: bool) -> str:
    steps = [_SCORES[options["score"]] + (" (+ bias for the choice)" if has_bias else "")]
    if options.get("num_groups", 1) > 1:
        best = _GROUPS[options.get("group_score", "max")]
        steps.append(f"{options['topk_groups']} of {options['num_groups']} groups by {best}")
    steps.append(f"top-{top_k}")
    if options["normalize"]:
        steps.append("/ sum")
    if options["scale"] != 1.0:
        steps.append(f"times {options['scale']:g}")
    return ", ".join(steps)


def _blank(module: nn.Module) -> nn.Module:
    """Returns a module of the same class and options, on the CPU in float32, without hooks."""
    blank = object.__new__(type(module))
    blank.__dict__.update(module.__dict__)
    blank.__dict__.pop("forward", None)  # a replaced forward
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
