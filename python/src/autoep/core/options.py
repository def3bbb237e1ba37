"""Checks of numbers and names, and the options of routing and experts in the engine's form."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from autoep.errors import InvalidArgumentError

if TYPE_CHECKING:
    import torch

    from autoep.core.arrays import Array

Activation = Literal["silu", "gelu", "gelu_tanh", "relu_squared", "clamped_swiglu", "clamped_silu"]
Gate = Literal["none", "concatenated", "interleaved"]
Layout = Literal["out_in", "in_out"]
ScoreApply = Literal["after", "before"]
Dispatch = Literal["slots", "tokens"]

_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1

SCORES = {"softmax": 1, "topk_softmax": 2, "sigmoid": 3, "sinkhorn": 4}
GROUP_SCORES = {None: 0, "max": 1, "top2_sum": 2}
ACTIVATIONS = {
    "silu": 1,
    "gelu": 2,
    "gelu_tanh": 3,
    "relu_squared": 4,
    "clamped_swiglu": 5,
    "clamped_silu": 6,
}
GATES = {"none": 1, "concatenated": 2, "interleaved": 3}
LAYOUTS = {"out_in": 1, "in_out": 2}
SCORE_APPLIES = {"after": 1, "before": 2}
DISPATCHES = {"slots": 1, "tokens": 2}
# The engine checks which of them a device supports.
DTYPES = {"float32": 1, "float64": 2, "bfloat16": 3, "float16": 4}


def integer(name: str, value: Any, low: int = 0, high: int = _INT32_MAX) -> int:
    """Returns `value` as an int; raises unless it is an integer in [low, high]."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidArgumentError(
            f"{name}: expected an integer, got {type(value).__name__}"
        ) from None
    if not low <= number <= high:
        raise InvalidArgumentError(f"{name}: expected {low} to {high}, got {number}")
    return number


def real(name: str, value: Any) -> float:
    """Returns `value` as a float; raises unless it is a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgumentError(
            f"{name}: expected a number, got {type(value).__name__}"
        ) from None
    if number - number != 0:
        raise InvalidArgumentError(f"{name}: expected a finite number, got {number}")
    return number


def enum_value(name: str, value: Any, choices: Mapping[Any, int]) -> int:
    """Returns the engine's number of a named value; raises unless it is one of `choices`."""
    if isinstance(value, str | None) and value in choices:
        return choices[value]
    allowed = ", ".join(repr(known) for known in choices)
    raise InvalidArgumentError(f"{name}: expected one of {allowed}, got {value!r}")


def counts(name: str, values: Any) -> list[int]:
    """Returns row counts, given as any sequence of integers or as a tensor, as a list."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise InvalidArgumentError(
            f"{name}: expected a sequence of integers, got {type(values).__name__}"
        )
    return [integer(f"{name}[{p}]", rows, 0, _INT64_MAX) for p, rows in enumerate(values)]


class RouteOptions(NamedTuple):
    """`autoep_route_config` without its size, in its order."""

    score: int
    top_k: int
    normalize: int
    normalize_epsilon: float
    scale: float
    group_score: int
    num_groups: int
    topk_groups: int
    training: int
    sinkhorn_iterations: int


class Computing(TypedDict, total=False):
    """The computation of experts: keywords of `experts` and `experts_plan`.

    Attributes:
        activation: "silu", "gelu" (erf), "gelu_tanh", "relu_squared"; with g = min(gate, limit)
            and u = up within ±limit, "clamped_swiglu", which is gpt-oss's,
            (u + 1) g sigmoid(alpha g), or "clamped_silu", u silu(g). "silu" by default.
        gate: "concatenated", the default: the pre-activation is [gate | up]. "interleaved": gate,
            up, gate, up, ... "none": there is no gate.
        layout: "out_in", the default: weights are [e, G, H] and [e, H, F]. "in_out": [e, H, G]
            and [e, F, H].
        score_apply: Whether a token's weight multiplies the experts' results ("after", the
            default) or their input ("before").
        swiglu_alpha: For "clamped_swiglu"; 1.702 by default.
        swiglu_limit: For the clamped activations; above 0, 7 by default.
    """

    activation: Activation
    gate: Gate
    layout: Layout
    score_apply: ScoreApply
    swiglu_alpha: float
    swiglu_limit: float


class ExpertsOptions(NamedTuple):
    """`autoep_layer_config` up to its dispatch, without its size, in its order."""

    num_experts: int
    top_k: int
    hidden_size: int
    ffn_size: int
    dtype: int
    activation: int
    gate: int
    weight_layout: int
    apply_weights: int
    swiglu_alpha: float
    swiglu_limit: float


def experts_options(
    num_experts: int,
    top_k: int,
    hidden_size: int,
    ffn_size: int,
    dtype: str | torch.dtype,
    *,
    activation: Activation = "silu",
    gate: Gate = "concatenated",
    layout: Layout = "out_in",
    score_apply: ScoreApply = "after",
    swiglu_alpha: float = 1.702,
    swiglu_limit: float = 7.0,
) -> ExpertsOptions:
    """Checks the types of a layer's options; the engine checks whether they fit together.

    `Computing` documents the options that have a default.
    """
    return ExpertsOptions(
        num_experts=integer("num_experts", num_experts, 1),
        top_k=integer("top_k", top_k, 1),
        hidden_size=integer("hidden_size", hidden_size, 1, _INT64_MAX),
        ffn_size=integer("ffn_size", ffn_size, 1, _INT64_MAX),
        dtype=enum_value("dtype", str(dtype).removeprefix("torch."), DTYPES),
        activation=enum_value("activation", activation, ACTIVATIONS),
        gate=enum_value("gate", gate, GATES),
        weight_layout=enum_value("layout", layout, LAYOUTS),
        apply_weights=enum_value("score_apply", score_apply, SCORE_APPLIES),
        swiglu_alpha=real("swiglu_alpha", swiglu_alpha),
        swiglu_limit=real("swiglu_limit", swiglu_limit),
    )


class ExpertsWeights(NamedTuple):
    """The weights of a rank's experts, or one value for each weight, in C's order.

    Attributes:
        gate_up: [e, G, H], or [e, H, G] for the layout "in_out"; up alone without a gate.
        gate_up_bias: [e, G], or None for experts without.
        down: [e, H, F], or [e, F, H].
        down_bias: [e, H] or None.
    """

    gate_up: Array | None
    gate_up_bias: Array | None
    down: Array | None
    down_bias: Array | None
