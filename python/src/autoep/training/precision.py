"""bfloat16 as in DeepSpeed: compute in bfloat16; store, sum and step in float32."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from autoep.errors import ModelError
from autoep.layers.parameters import ParameterTable


def check_float32(table: ParameterTable) -> None:
    """Raises if a model to be trained without bf16 has half-precision parameters."""
    for row in table:
        if row.computing.dtype in (torch.bfloat16, torch.float16):
            raise ModelError(
                f"{row.name} is {row.computing.dtype}, but the configuration asks for float32"
                ' training. Set "bf16": {"enabled": true}, or load the model with'
                " dtype=torch.float32."
            )


def compute_in_bf16(
    model: nn.Module, table: ParameterTable, unrounded: Collection[torch.Tensor] = ()
) -> None:
    """Makes the model compute in bfloat16, and gives each trained parameter a float32 master.

    Buffers, and the modules that transformers keeps in float32, are unchanged. float32 weights
    become the masters, without rounding.

    Args:
        model: The model.
        table: Its parameters.
        unrounded: Parameters that are also unchanged.
    """
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    stays = {id(tensor) for tensor in unrounded}
    for row in table:
        parameter = row.computing
        in_kept_module = any(f".{part}." in f".{row.name}." for part in kept)
        if in_kept_module or id(parameter) in stays or not parameter.is_floating_point():
            continue
        if parameter.dtype != torch.bfloat16:
            rounded = parameter.detach().to(torch.bfloat16)
            table.replace(row, nn.Parameter(rounded, requires_grad=parameter.requires_grad))
        if parameter.requires_grad:
            row.master = _master(parameter)


def _master(parameter: nn.Parameter) -> nn.Parameter:
    if parameter.dtype == torch.float32:
        return parameter
    return nn.Parameter(parameter.detach().float())
