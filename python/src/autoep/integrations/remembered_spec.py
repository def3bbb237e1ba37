"""The spec of a module of transformers' convention, found once and stored on the module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoep.detection.conventions import spec_by_convention
from autoep.layers.spec import MoELayerSpec, sizes_of


def spec_of(experts: nn.Module) -> MoELayerSpec:
    """Returns the spec of a module of transformers' convention; stored after the first call.

    Raises:
        ModelError: The module does not follow the convention.
    """
    if torch.compiler.is_compiling():
        from torch._dynamo.comptime import comptime

        comptime(_find_spec_in_trace)
    else:
        _find_spec(experts)
    return experts._autoep_spec


def _find_spec(experts: nn.Module) -> None:
    """Stores the spec on the module, where traced code can read it."""
    if "_autoep_spec" not in vars(experts):
        spec = spec_by_convention(experts)
        sizes_of(experts, spec, type(experts).__name__)
        experts._autoep_spec = spec


def _find_spec_in_trace(tracer: Any) -> None:
    """Finds the spec while torch.compile traces `spec_of`: on the module, outside the graph.

    `torch.compiler.assume_constant_result` accepts no module in torch 2.11.

    Args:
        tracer: torch's ComptimeContext.
    """
    variable = tracer.get_local("experts")._i_will_not_complain_if_bc_breaks_VariableTracker()
    _find_spec(variable.value)
