"""bfloat16 as DeepSpeed means it: computed in bfloat16; kept, summed and stepped in float32."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from autoep.errors import ModelError
from autoep.layers.sharding import Replacements, local, replace_parameters


class Masters:
    """The float32 copies that the optimizer steps, of parameters that compute in bfloat16.

    In a float32 run there are none, and every parameter is its own.
    """

    def __init__(self) -> None:
        self._of: Replacements = {}

    def add(self, parameter: nn.Parameter, master: nn.Parameter) -> None:
        """Makes `master` the float32 copy of `parameter`."""
        self._of[parameter] = master

    def of(self, parameter: nn.Parameter) -> nn.Parameter:
        """Returns what the optimizer steps, which may be the parameter itself."""
        return self._of.get(parameter, parameter)

    def has(self, parameter: nn.Parameter) -> bool:
        """Whether the parameter has a copy."""
        return parameter in self._of

    @torch.no_grad()
    def accumulate(self, parameter: nn.Parameter) -> None:
        """Adds the gradient of one micro-batch to the float32 sum, and frees it."""
        if parameter.grad is None or not self.has(parameter):
            return
        master = self.of(parameter)
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            local(master.grad).add_(local(parameter.grad))
        parameter.grad = None

    @torch.no_grad()
    def publish(self) -> None:
        """Rounds the float32 weights into the parameters that compute."""
        for parameter, master in self._of.items():
            local(parameter).copy_(local(master))


def check_float32(model: nn.Module) -> None:
    """Raises where a model to be trained without bf16 has half-precision parameters."""
    for name, parameter in model.named_parameters():
        if parameter.dtype in (torch.bfloat16, torch.float16):
            raise ModelError(
                f"{name} is {parameter.dtype}, but the configuration asks for float32 training."
                ' Set "bf16": {"enabled": true}, or load the model with dtype=torch.float32.'
            )


def compute_in_bf16(
    model: nn.Module, unrounded: Collection[torch.Tensor] = ()
) -> tuple[Replacements, Masters]:
    """Makes the model compute in bfloat16.

    Buffers, and the modules that transformers keeps in float32, stay as they are. float32 weights
    go on as the masters, unrounded.

    Args:
        model: The model.
        unrounded: Parameters that stay as they are too.

    Returns:
        The bfloat16 parameter of each one replaced, and the masters of those that are trained.
    """
    replaced: Replacements = {}
    masters = Masters()
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    stays = {id(tensor) for tensor in unrounded}
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point() or any(f".{part}." in f".{name}." for part in kept):
            continue
        if id(parameter) in stays:
            continue
        computing = parameter
        if parameter.dtype != torch.bfloat16:
            rounded = parameter.detach().to(torch.bfloat16)
            computing = nn.Parameter(rounded, requires_grad=parameter.requires_grad)
            replaced[parameter] = computing
        if parameter.requires_grad:
            masters.add(computing, _master(parameter))
    replace_parameters(model, replaced)
    return replaced, masters


def _master(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype == torch.float32:
        return parameter
    return nn.Parameter(parameter.detach().float())
