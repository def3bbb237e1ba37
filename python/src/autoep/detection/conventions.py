"""Experts that follow transformers' convention, recognised without knowing their family.

transformers marks a class of stacked experts with `@use_experts_implementation`, which stores
the layout of the weights on each instance (`is_transposed`, `has_gate`, `has_bias`,
`has_post_expert_norm`) and adds `_apply_gate`, the function between its two products. That
function is identified by calling it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as torch_functional

from autoep.errors import ModelError
from autoep.functional import Activation, Gate
from autoep.layers.spec import MoELayerSpec, own_activation

_MARKS = ("has_gate", "has_bias", "is_transposed", "is_concatenated")

# The engine's activations without parameters, as torch functions.
PLAIN_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": torch_functional.silu,
    "gelu": torch_functional.gelu,
    "gelu_tanh": lambda x: torch_functional.gelu(x, approximate="tanh"),
    "relu_squared": lambda x: torch_functional.relu(x).square(),
}


def follows_convention(module: nn.Module) -> bool:
    """Whether transformers marked a module as stacked experts."""
    return all(hasattr(module, mark) for mark in _MARKS)


def spec_by_convention(experts: nn.Module) -> MoELayerSpec:
    """Returns the spec of experts that follow transformers' convention.

    Args:
        experts: The module; its weights are not read.

    Raises:
        ModelError: It does not follow the convention.
    """
    if not follows_convention(experts):
        missing = [mark for mark in _MARKS if not hasattr(experts, mark)]
        raise ModelError(
            f"{type(experts).__name__} has no {', '.join(missing)}: it is not an experts module as"
            " transformers 5 builds it (`use_experts_implementation`), so what it computes is"
            " unknown"
        )
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    return MoELayerSpec(
        family=family_of(experts),
        gate_up=first,
        gate_up_bias=f"{first}_bias" if experts.has_bias else None,
        down_bias="down_proj_bias" if experts.has_bias else None,
        layout="in_out" if experts.is_transposed else "out_in",
        post_norm="post_expert_norm" if getattr(experts, "has_post_expert_norm", False) else None,
        **known_activation(experts, gated=experts.has_gate),
    )


def family_of(experts: nn.Module) -> str:
    """Returns the family of a module from its configuration; empty without one."""
    model_type = getattr(getattr(experts, "config", None), "model_type", "")
    return model_type.removesuffix("_text")


def known_activation(experts: nn.Module, gated: bool) -> dict[str, object]:
    """Finds the engine's function that equals the experts' own, by comparing results.

    Returns:
        The fields `gate`, `activation`, `swiglu_alpha` and `swiglu_limit` of a spec; activation
        is None if none matches.
    """
    order: Gate = "concatenated" if gated else "none"
    own = own_activation(experts, order)
    hidden_RG = _probes()
    try:
        with torch.no_grad(), _training(experts):
            result_RF = own(hidden_RG)
    except RuntimeError:  # it has weights, which are elsewhere or of another width
        return {"gate": order, "activation": None}
    for fields, function in _candidates(_numbers(experts), gated):
        expected_RF = function(hidden_RG)
        if expected_RF.shape == result_RF.shape and torch.allclose(
            result_RF.double(), expected_RF, rtol=1e-5, atol=1e-6
        ):
            return fields
    return {"gate": order, "activation": None}


def activation_candidates(experts: nn.Module) -> list[dict[str, object]]:
    """Returns the possible activations of gated experts, as spec fields; one if it is callable."""
    if hasattr(experts, "_apply_gate") or hasattr(experts, "act_fn"):
        return [known_activation(experts, gated=True)]
    return [fields for fields, _ in _candidates(_numbers(experts), gated=True)]


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """Puts a module in training mode temporarily, keeping the script's random state.

    This exposes a dropout after the activation: `from_pretrained` returns models in eval mode.
    """
    modes = {part: part.training for part in module.modules()}
    with torch.random.fork_rng(devices=[]):
        try:
            module.train()
            yield
        finally:
            for part, training in modes.items():
                part.training = training


def _probes() -> torch.Tensor:
    """Returns [R, 4]: two gates and two ups, of both signs and magnitudes up to a thousand."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(2048, 4, generator=generator, dtype=torch.float64)
    magnitudes = torch.logspace(-1, 3, 2048, dtype=torch.float64)
    return numbers * magnitudes.unsqueeze(-1)


def _numbers(experts: nn.Module) -> list[float]:
    """Returns the numbers stored on a module, which include those of its activation."""
    kept = [value for value in vars(experts).values() if type(value) in (int, float)]
    return sorted({float(value) for value in kept if value > 0})


def _candidates(
    numbers: list[float], gated: bool
) -> Iterator[tuple[dict[str, object], Callable[[torch.Tensor], torch.Tensor]]]:
    """Yields the engine's functions of a pre-activation, each with its spec fields."""
    if not gated:
        for activation, function in PLAIN_ACTIVATIONS.items():
            yield {"gate": "none", "activation": activation}, function
        return
    for gate in ("concatenated", "interleaved"):
        for activation, function in PLAIN_ACTIVATIONS.items():
            yield {"gate": gate, "activation": activation}, _gated(gate, function)
        for limit in numbers:
            fields = {"gate": gate, "activation": "clamped_silu", "swiglu_limit": limit}
            yield fields, _clamped(gate, 1.0, limit, offset=0)
            for alpha in numbers:
                yield (
                    {
                        "gate": gate,
                        "activation": "clamped_swiglu",
                        "swiglu_alpha": alpha,
                        "swiglu_limit": limit,
                    },
                    _clamped(gate, alpha, limit, offset=1),
                )


def _parts(gate: Gate, hidden_RG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if gate == "interleaved":
        return hidden_RG[:, ::2], hidden_RG[:, 1::2]
    return hidden_RG.chunk(2, dim=-1)


def _gated(
    gate: Gate, function: Callable[[torch.Tensor], torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    def compute(hidden_RG: torch.Tensor) -> torch.Tensor:
        gates_RF, ups_RF = _parts(gate, hidden_RG)
        return function(gates_RF) * ups_RF

    return compute


def _clamped(
    gate: Gate, alpha: float, limit: float, *, offset: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    def compute(hidden_RG: torch.Tensor) -> torch.Tensor:
        gates_RF, ups_RF = _parts(gate, hidden_RG)
        gates_RF, ups_RF = gates_RF.clamp(max=limit), ups_RF.clamp(-limit, limit)
        return (ups_RF + offset) * gates_RF * torch.sigmoid(alpha * gates_RF)

    return compute
