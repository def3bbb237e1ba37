"""Copies of modules to try things on: small, with weights of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn

Shape = tuple[int, ...]


def twin_of(
    module: nn.Module, shapes: Mapping[str, Shape] | None = None, plain: Iterable[nn.Module] = ()
) -> nn.Module:
    """Copies a module to the CPU with other weights; the model's random state is not touched.

    Args:
        module: The module; its tensors are not read.
        shapes: The shapes of parameters, by name, that differ from the module's.
        plain: Modules within whose place a linear map of [H, H] takes; H is their input's size.

    Returns:
        The copy, in eval mode.
    """
    generator = torch.Generator().manual_seed(0)
    others: dict[int, object] = {}
    for part in plain:
        size = next(p.shape[-1] for p in part.parameters() if p.ndim == 2)
        linear = nn.Linear(size, size, bias=False, device="meta")
        linear.weight = _random(linear.weight.shape, generator)
        others |= {id(part): linear, **{id(p): p for p in part.parameters()}}
    for name, parameter in module.named_parameters():
        if id(parameter) not in others:
            shape = (shapes or {}).get(name, tuple(parameter.shape))
            others[id(parameter)] = _random(shape, generator)
    for buffer in module.buffers():
        if buffer.is_meta:
            others[id(buffer)] = torch.zeros_like(buffer, device="cpu")
    for part in module.modules():
        config = getattr(part, "config", None)
        others[id(config)] = config
        others[id(vars(part).get("forward"))] = None  # that of an earlier initialize
    return copy.deepcopy(module, others).eval()


def _random(shape: Shape, generator: torch.Generator) -> nn.Parameter:
    """Numbers that keep the size of what they multiply; for vectors, around one."""
    values = torch.randn(shape, generator=generator)
    values = values / shape[-1] ** 0.5 if len(shape) > 1 else 1 + 0.3 * values
    return nn.Parameter(values, requires_grad=False)
