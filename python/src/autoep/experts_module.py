"""Running the experts of a module by their spec, wherever they are.

Shapes: T tokens, H hidden size, F expert FFN size, G = 2F with a gate and F without, K experts a
token, E experts, e of this rank.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import nn

from autoep import functional
from autoep.comm import Communicator
from autoep.composed import composed_experts
from autoep.detection.conventions import spec_by_convention
from autoep.detection.spec import MoELayerSpec, own_activation, sizes_of
from autoep.sharding import local


class ExpertsWeights(NamedTuple):
    """This rank's tensors of a module: `gate_up` is up alone where there is no gate."""

    gate_up: torch.Tensor
    down: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None


def spec_of(experts: nn.Module) -> MoELayerSpec:
    """Finds out what the experts of a module of transformers' convention compute; remembered.

    Raises:
        ModelError: The module is not of the convention.
    """
    if torch.compiler.is_compiling():
        from torch._dynamo.comptime import comptime

        comptime(_find_spec_in_trace)
    else:
        _find_spec(experts)
    return experts._autoep_spec


def _find_spec(experts: nn.Module) -> None:
    """Leaves the spec on the module, from where traced code can take it."""
    if "_autoep_spec" not in vars(experts):
        spec = spec_by_convention(experts)
        sizes_of(experts, spec, type(experts).__name__)
        experts._autoep_spec = spec


def _find_spec_in_trace(tracer: Any) -> None:
    """The same while torch.compile traces `spec_of`: on the module itself, and not in the graph.

    `torch.compiler.assume_constant_result` takes no module in torch 2.11.

    Args:
        tracer: torch's ComptimeContext.
    """
    variable = tracer.get_local("experts")._i_will_not_complain_if_bc_breaks_VariableTracker()
    _find_spec(variable.value)


def weights_of(experts: nn.Module, spec: MoELayerSpec) -> ExpertsWeights:
    """The weights of a module, as they are at this moment."""
    names = (spec.gate_up, spec.down, spec.gate_up_bias, spec.down_bias)
    return ExpertsWeights(
        *(None if name is None else local(_attribute(experts, name)) for name in names)
    )


def run_experts(
    experts: nn.Module,
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    *,
    num_experts: int,
    comm: Communicator | None = None,
    spec: MoELayerSpec | None = None,
    weights: ExpertsWeights | None = None,
) -> torch.Tensor:
    """Computes the weighted sum of each token's experts, [T, H]; collective.

    Args:
        experts: A module with this rank's experts.
        x_TH: [T, H].
        topk_idx_TK: [T, K], each in [0, num_experts).
        topk_weights_TK: [T, K].
        num_experts: E, over all ranks.
        comm: The ranks; None for this rank alone.
        spec: What they compute; None to find it out by transformers' convention.
        weights: The weights to compute with; None for the module's.
    """
    spec = spec_of(experts) if spec is None else spec
    if spec.identity_experts:
        return _with_identity_experts(
            experts, x_TH, topk_idx_TK, topk_weights_TK, num_experts, comm, spec, weights
        )
    weights = weights_of(experts, spec) if weights is None else weights
    if not spec.fused():
        return composed_experts(
            x_TH,
            topk_idx_TK,
            topk_weights_TK,
            *weights,
            num_experts=num_experts,
            comm=comm,
            layout=spec.layout,
            activate=own_activation(experts, spec.gate),
            normalize=None if spec.post_norm is None else experts.get_submodule(spec.post_norm),
        )
    return functional.experts(
        x_TH,
        topk_idx_TK,
        topk_weights_TK,
        weights.gate_up,
        weights.down,
        gate_up_bias=weights.gate_up_bias,
        down_bias=weights.down_bias,
        num_experts=num_experts,
        comm=comm,
        activation=spec.activation,
        gate=spec.gate,
        layout=spec.layout,
        score_apply=spec.score_apply,
        swiglu_alpha=spec.swiglu_alpha,
        swiglu_limit=spec.swiglu_limit,
    )


def _attribute(experts: nn.Module, path: str) -> torch.Tensor:
    """A weight by its dotted path; not `get_parameter`, which wants no computed one."""
    owner, _, name = path.rpartition(".")
    return getattr(experts.get_submodule(owner), name)


def _with_identity_experts(
    experts: nn.Module,
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    num_experts: int,
    comm: Communicator | None,
    spec: MoELayerSpec,
    weights: ExpertsWeights | None,
) -> torch.Tensor:
    """Adds what experts give that return their input: those numbered E and above.

    Their choices go to the other experts in turn, with weight zero.
    """
    here_TK = topk_idx_TK >= num_experts
    in_turn_TK = torch.arange(here_TK.numel(), device=here_TK.device).view(here_TK.shape)
    y_TH = run_experts(
        experts,
        x_TH,
        torch.where(here_TK, in_turn_TK % num_experts, topk_idx_TK),
        topk_weights_TK.masked_fill(here_TK, 0.0),
        num_experts=num_experts,
        comm=comm,
        spec=dataclasses.replace(spec, identity_experts=0),
        weights=weights,
    )
    wide = torch.promote_types(topk_weights_TK.dtype, x_TH.dtype)
    kept_T1 = topk_weights_TK.to(wide).masked_fill(~here_TK, 0.0).sum(1, keepdim=True)
    return y_TH + x_TH * kept_T1.to(x_TH.dtype)
