"""Unknown experts classes of transformers' convention."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers.integrations.moe import use_experts_implementation

E, H, FFN, K, T = 5, 16, 12, 2, 23


class ModuleConfig:
    """The part of a config that an experts module reads."""

    def __init__(self, implementation: str) -> None:
        self._experts_implementation = implementation


def make_class(
    apply_gate: Any = None,
    act_fn: Any = nn.functional.silu,
    numbers: dict[str, float] | None = None,
    **marks: bool,
) -> type[nn.Module]:
    """Returns an unknown experts class of transformers' convention."""
    gated, transposed = marks.get("has_gate", True), marks.get("is_transposed", False)

    class UnknownExperts(nn.Module):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.num_experts = E
            self.act_fn = act_fn
            width = 2 * FFN if gated else FFN
            first, second = (E, width, H), (E, H, FFN)
            if transposed:
                first, second = (E, H, width), (E, FFN, H)
            name = "gate_up_proj" if gated else "up_proj"
            self.register_parameter(name, nn.Parameter(torch.randn(first)))
            self.down_proj = nn.Parameter(torch.randn(second))
            if marks.get("has_bias"):
                self.register_parameter(f"{name}_bias", nn.Parameter(torch.randn(E, width)))
                self.down_proj_bias = nn.Parameter(torch.randn(E, H))
            if marks.get("has_post_expert_norm"):
                self.post_expert_norm = nn.RMSNorm(H, eps=1e-6)
            for number, value in (numbers or {}).items():
                setattr(self, number, value)

        def forward(self, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> None:
            raise AssertionError("another implementation was asked for")

    if apply_gate is not None:
        UnknownExperts._apply_gate = apply_gate
    if unknown := marks.keys() - inspect.signature(use_experts_implementation).parameters:
        pytest.skip(f"transformers {transformers.__version__} has no {', '.join(unknown)}")
    return use_experts_implementation(UnknownExperts, **marks)


def softcapped(self: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return nn.functional.silu(gate.clamp(max=2.0)) * up.clamp(-2.0, 2.0)


def interleaved_clamped(self: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up[..., ::2].clamp(max=self.limit), gate_up[..., 1::2]
    return (up.clamp(-self.limit, self.limit) + 1) * gate * torch.sigmoid(self.alpha * gate)


def gate_second(self: nn.Module, gate_up: torch.Tensor) -> torch.Tensor:
    up, gate = gate_up.chunk(2, dim=-1)
    return nn.functional.silu(gate) * up


def relu_squared(x: torch.Tensor) -> torch.Tensor:
    return nn.functional.relu(x).square()


CLAMPED = {"alpha": 1.3, "limit": 2.5}
KINDS: dict[str, tuple[dict[str, Any], str | None]] = {
    "silu": ({}, "silu"),
    "gelu": ({"act_fn": nn.functional.gelu}, "gelu"),
    "gelu_tanh": ({"act_fn": nn.GELU(approximate="tanh")}, "gelu_tanh"),
    "transposed, biases": ({"is_transposed": True, "has_bias": True}, "silu"),
    "no gate": (
        {"has_gate": False, "act_fn": lambda x: nn.functional.relu(x).square()},
        "relu_squared",
    ),
    "no gate, biases": ({"has_gate": False, "has_bias": True}, "silu"),
    "clamped": (
        {
            "apply_gate": interleaved_clamped,
            "numbers": CLAMPED,
            "is_concatenated": False,
            "is_transposed": True,
            "has_bias": True,
        },
        "clamped_swiglu",
    ),
    "softcapped": ({"apply_gate": softcapped, "has_bias": True}, None),
    "softcapped, transposed": ({"apply_gate": softcapped, "is_transposed": True}, None),
    "gate second": ({"apply_gate": gate_second}, None),
    "no gate, elu": ({"has_gate": False, "act_fn": nn.functional.elu}, None),
    "norm after": ({"has_post_expert_norm": True, "has_bias": True}, None),
}


def case(kind: str, dtype: torch.dtype) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Returns a module and the arguments of its forward."""
    torch.manual_seed(3)
    experts = make_class(**KINDS[kind][0])(ModuleConfig("batched_mm")).to(dtype)
    x = torch.randn(T, H, dtype=dtype, requires_grad=True)
    weights, idx = torch.randn(T, E).to(dtype).softmax(-1).topk(K)
    return experts, (x, idx, weights.detach().requires_grad_())


def results(experts: nn.Module, y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor) -> list:
    """Returns the output, and the gradients of everything."""
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y)
    wanted = [x, weights, *experts.parameters()]
    return [y, *torch.autograd.grad((y * direction).sum(), wanted)]
