"""Scratch copies of modules for trials: small, with their own weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn

Shape = tuple[int, ...]


def twin_of(
    module: nn.Module, shapes: Mapping[str, Shape] | None = None, plain: Iterable[nn.Module] = ()
) -> nn.Module:
    """Copies a module to the CPU with other weights; the global random state is unchanged.

    Args:
        module: The module; its tensors are not read.
        shapes: The shapes of parameters, by name, that differ from the module's.
        plain: Submodules to replace by a linear map [H, H]; H is the size of their input.

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
        others[id(vars(part).get("forward"))] = None  # the forward of an earlier initialize
    return copy.deepcopy(module, others).eval()


def _random(shape: Shape, generator: torch.Generator) -> nn.Parameter:
    """Returns numbers that preserve the magnitude of what they multiply; vectors are near one."""
    values = torch.randn(shape, generator=generator)
    values = values / shape[-1] ** 0.5 if len(shape) > 1 else 1 + 0.3 * values
    return nn.Parameter(values, requires_grad=False)
