"""Checks of numbers and names, and the options of routing and experts as the engine takes them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from autoep.errors import InvalidArgumentError

_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1

SCORES = {"softmax": 1, "topk_softmax": 2, "sigmoid": 3, "sinkhorn": 4}
GROUP_SCORES = {None: 0, "max": 1, "top2_sum": 2}
ACTIVATIONS = {"silu": 1, "gelu": 2, "gelu_tanh": 3, "relu_squared": 4, "clamped_swiglu": 5}
GATES = {"none": 1, "concatenated": 2, "interleaved": 3}
LAYOUTS = {"out_in": 1, "in_out": 2}
SCORE_APPLIES = {"after": 1, "before": 2}
DTYPES = {"float32": 1, "float64": 2, "bfloat16": 3}
# Of the experts on one GPU.
GPU_DTYPES = {"float32": 1, "bfloat16": 3, "float16": 4}


def integer(name: str, value: Any, low: int = 0, high: int = _INT32_MAX) -> int:
    """Returns `value` as an int; raises unless it is one in [low, high]."""
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


def choice(name: str, value: Any, choices: Mapping[Any, int]) -> int:
    """Returns the engine's number of a named choice."""
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


class ExpertsOptions(NamedTuple):
    """`autoep_experts_config` without its size, in its order."""

    num_experts: int
    hidden_size: int
    ffn_size: int
    dtype: int
    activation: int
    gate: int
    weight_layout: int
    score_apply: int
    swiglu_alpha: float
    swiglu_limit: float

    @property
    def gate_up_size(self) -> int:
        """G, the width of the pre-activation."""
        return self.ffn_size if self.gate == GATES["none"] else 2 * self.ffn_size

    @property
    def dtype_name(self) -> str:
        """The dtype by name."""
        return next(name for name, number in DTYPES.items() if number == self.dtype)
