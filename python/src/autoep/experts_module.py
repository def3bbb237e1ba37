"""Running an experts module of transformers' convention, wherever its experts are.

The convention is that of `transformers.integrations.moe`: stacked weights, and the attributes
`has_gate`, `has_bias`, `is_transposed`, `is_concatenated` and `has_post_expert_norm` say what is
done with them. The activation is a function of the module's; which one is found out by trying.

Shapes: T tokens, H hidden size, F expert FFN size, G = 2F with a gate and F without, K experts a
token, E experts, e of this rank.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from autoep import functional
from autoep.comm import Communicator
from autoep.composed import composed_experts
from autoep.errors import ModelError

_MARKS = ("has_gate", "has_bias", "is_transposed", "is_concatenated", "has_post_expert_norm")

# Where modules keep the two numbers of a clamped SwiGLU.
_ALPHAS = ("alpha", "swiglu_alpha")
_LIMITS = ("limit", "swiglu_limit")

_PLAIN_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "gelu_tanh": lambda x: nn.functional.gelu(x, approximate="tanh"),
    "relu_squared": lambda x: nn.functional.relu(x).square(),
}
# What float32 leaves of two ways to write one function; any two of the functions differ by more.
_PROBE_TOLERANCE = 1e-5


class ExpertsWeights(NamedTuple):
    """The tensors of a module: `gate_up` is up alone where there is no gate."""

    gate_up: torch.Tensor
    down: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None


@dataclass(frozen=True)
class ExpertsMaths:
    """What the experts of a module compute.

    Attributes:
        layout: How the weights lie, "out_in" or "in_out".
        gate: "concatenated", "interleaved" or "none".
        activation: The options of `functional.experts` that give the module's activation; None
            where the engine has no such activation, and for a norm after each expert.
    """

    layout: str
    gate: str
    activation: dict[str, Any] | None


def follows_convention(module: nn.Module) -> bool:
    """Whether a module is of transformers' convention for experts."""
    return all(hasattr(module, mark) for mark in _MARKS)


_known: weakref.WeakKeyDictionary[nn.Module, ExpertsMaths] = weakref.WeakKeyDictionary()


def maths_of(experts: nn.Module) -> ExpertsMaths:
    """Finds out what the experts of a module compute; remembered.

    Raises:
        ModelError: The module is not of the convention.
    """
    if experts not in _known:
        _known[experts] = _read(experts)
    return _known[experts]


def weights_of(experts: nn.Module) -> ExpertsWeights:
    """The weights of a module of the convention, as they are at this moment."""
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    return ExpertsWeights(
        getattr(experts, first),
        experts.down_proj,
        getattr(experts, f"{first}_bias") if experts.has_bias else None,
        experts.down_proj_bias if experts.has_bias else None,
    )


def run_experts(
    experts: nn.Module,
    x_TH: torch.Tensor,
    topk_idx_TK: torch.Tensor,
    topk_weights_TK: torch.Tensor,
    *,
    num_experts: int,
    comm: Communicator,
) -> torch.Tensor:
    """Computes the weighted sum of each token's experts, [T, H]; collective.

    Args:
        experts: A module of the convention, with this rank's experts.
        x_TH: [T, H].
        topk_idx_TK: [T, K], each in [0, num_experts).
        topk_weights_TK: [T, K].
        num_experts: E, over all ranks.
        comm: The ranks.
    """
    maths = maths_of(experts)
    weights = weights_of(experts)
    if maths.activation is None:
        return composed_experts(
            x_TH,
            topk_idx_TK,
            topk_weights_TK,
            *weights,
            num_experts=num_experts,
            comm=comm,
            layout=maths.layout,
            activate=_own_activation(experts),
            normalize=experts.post_expert_norm if experts.has_post_expert_norm else None,
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
        layout=maths.layout,
        gate=maths.gate,
        **maths.activation,
    )


def _read(experts: nn.Module) -> ExpertsMaths:
    if not follows_convention(experts):
        missing = [mark for mark in _MARKS if not hasattr(experts, mark)]
        raise ModelError(
            f"{type(experts).__name__} has no {', '.join(missing)}: it is not an experts module as"
            " transformers 5 builds it (`use_experts_implementation`), so what it computes is"
            " unknown"
        )
    layout = "in_out" if experts.is_transposed else "out_in"
    gate = "none"
    if experts.has_gate:
        gate = "concatenated" if experts.is_concatenated else "interleaved"
    _check_shapes(experts)
    activation = None if experts.has_post_expert_norm else _find_activation(experts, gate)
    return ExpertsMaths(layout, gate, activation)


def _check_shapes(experts: nn.Module) -> None:
    gate_up, down, *_ = weights_of(experts)
    name = type(experts).__name__
    if gate_up.ndim != 3 or down.ndim != 3:
        raise ModelError(
            f"{name}: its weights have shapes {list(gate_up.shape)} and {list(down.shape)};"
            " expected three dimensions each, of which the first counts the experts"
        )
    width = gate_up.shape[2 if experts.is_transposed else 1]
    ffn_size = down.shape[1 if experts.is_transposed else 2]
    expected = 2 * ffn_size if experts.has_gate else ffn_size
    if width != expected:
        raise ModelError(
            f"{name}: its first weight is {list(gate_up.shape)} and gives {width} numbers a row,"
            f" but its second, {list(down.shape)}, goes with {expected}"
        )


def _own_activation(experts: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    return experts._apply_gate if experts.has_gate else experts.act_fn


def _find_activation(experts: nn.Module, gate: str) -> dict[str, Any] | None:
    """Tries the module's activation on numbers, and returns the engine's that gives the same."""
    numbers = torch.randn(64, 32, generator=torch.Generator().manual_seed(0), device="cpu")
    numbers *= torch.linspace(0.1, 8.0, 64, device="cpu").unsqueeze(1)  # past any limit
    try:
        with torch.no_grad():
            theirs = _own_activation(experts)(numbers.clone())
    except RuntimeError:  # it has weights of its own, elsewhere
        return None
    for options, compute in _candidates(experts, gate):
        ours = compute(numbers)
        if ours.shape == theirs.shape:
            difference = (ours - theirs).abs() / ours.abs().clamp(min=1.0)
            if difference.max() <= _PROBE_TOLERANCE:
                return options
    return None


Candidate = tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]


def _candidates(experts: nn.Module, gate: str) -> Iterator[Candidate]:
    """The engine's activations: how to ask for one, and what it computes."""

    def split(gate_up: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if gate == "interleaved":
            return gate_up[:, ::2], gate_up[:, 1::2]
        return gate_up.chunk(2, dim=-1)

    for name, plain in _PLAIN_ACTIVATIONS.items():

        def compute(x: torch.Tensor, plain: Callable = plain) -> torch.Tensor:
            if gate == "none":
                return plain(x)
            g, u = split(x)
            return plain(g) * u

        yield {"activation": name}, compute
    if gate == "none":
        return
    alpha, limit = _number(experts, _ALPHAS), _number(experts, _LIMITS)
    if alpha is not None and limit is not None and limit > 0:

        def clamped(x: torch.Tensor) -> torch.Tensor:
            g, u = split(x)
            g, u = g.clamp(max=limit), u.clamp(-limit, limit)
            return (u + 1) * g * torch.sigmoid(alpha * g)

        chosen = {"activation": "clamped_swiglu", "swiglu_alpha": alpha, "swiglu_limit": limit}
        yield chosen, clamped


def _number(experts: nn.Module, names: tuple[str, ...]) -> float | None:
    values = (getattr(experts, name, None) for name in names)
    return next((float(value) for value in values if isinstance(value, int | float)), None)
