"""The routing of the engine that a model's router computes, found by comparing results.

A router of transformers is a linear map and a choice: it returns (logits [T, E], topk_weights
[T, K], topk_idx [T, K]). It is called with random weights on random tokens; its results and the
gradient of its weights are compared with the engine's for each combination of options.

Shapes: T tokens, H hidden size, E experts, K experts per token.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from autoep.errors import InvalidArgumentError, UnsupportedError
from autoep.layers.choice import choose_experts
from autoep.layers.selection_bias import selection_bias


class RouterResult(NamedTuple):
    """The result of a router, in transformers' order."""

    logits: torch.Tensor  # [T, E]
    topk_weights: torch.Tensor  # [T, K]
    topk_idx: torch.Tensor  # [T, K]


_TOKENS = 192
_TIED_TOKENS = 4  # rows of zeros, whose logits are all equal


@dataclass(frozen=True)
class RouterMaths:
    """The computation of a router.

    Attributes:
        weight: The name of its parameter [E, H].
        bias: The name of its parameter [E] that is added to the logits; None for none.
        product_dtype: The dtype in which logits are computed; None for the dtype of the weight.
        logits_dtype: The dtype in which logits are then stored and returned.
        has_selection_bias: Whether it adds its own bias to the scores for the selection.
        takes_selection_bias: Whether it is called with that bias.
        top_k: K.
        weights_dtype: The dtype of the returned topk_weights.
        options: The other options of `functional.route`.
    """

    weight: str
    bias: str | None
    product_dtype: torch.dtype | None
    logits_dtype: torch.dtype
    has_selection_bias: bool
    takes_selection_bias: bool
    top_k: int
    weights_dtype: torch.dtype
    options: dict[str, Any] = field(default_factory=dict)

    def route(
        self, router: nn.Module, hidden_states: torch.Tensor, bias_E: torch.Tensor | None
    ) -> RouterResult:
        """Computes the router's forward.

        Args:
            router: The router.
            hidden_states: [..., H].
            bias_E: The selection bias with which it is called, if any.

        Returns:
            Logits [T, E], topk_weights [T, K] and topk_idx [T, K].
        """
        logits_TE = self.logits(router, hidden_states)
        if self.has_selection_bias:
            bias_E = selection_bias(router, logits_TE.shape[1])
        routing = choose_experts(
            logits_TE,
            self.top_k,
            selection_bias=None if bias_E is None else bias_E.detach().flatten().float(),
            **self.options,
        )
        return RouterResult(
            logits_TE, routing.topk_weights.to(self.weights_dtype), routing.topk_idx.long()
        )

    def logits(self, router: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
        """Applies the linear map: [..., H] to [T, E]."""
        weight_EH = router.get_parameter(self.weight)
        bias_E = None if self.bias is None else router.get_parameter(self.bias)
        dtype = self.product_dtype or weight_EH.dtype
        logits_TE = nn.functional.linear(
            hidden_states.reshape(-1, weight_EH.shape[1]).to(dtype),
            weight_EH.to(dtype),
            None if bias_E is None else bias_E.to(dtype),
        )
        return logits_TE.to(self.logits_dtype)


def find_router_maths(
    router: nn.Module, num_experts: int, dtype: torch.dtype
) -> RouterMaths | None:
    """Finds the options with which the engine computes the same as a router.

    The choice is the same, except among experts with equal logits, and the weights and
    gradients are the same up to rounding in the dtypes that the router uses.

    Args:
        router: The router; its weights are restored on return.
        num_experts: E.
        dtype: The dtype of the tokens that it will receive.

    Returns:
        The router's computation; None if the engine does not have it.
    """
    names = _linear_map(router, num_experts)
    parameters = list(inspect.signature(router.forward).parameters)
    if names is None or not 1 <= len(parameters) <= 2:
        return None
    if dtype == torch.float64:  # routers round to float32, each at another point
        return None
    weight_EH = router.get_parameter(names[0])
    random = torch.Generator(weight_EH.device).manual_seed(0)
    with _random_weights(router, random), torch.enable_grad():
        x_TH = _random_tokens(weight_EH, dtype, random)
        given_E = weight_EH.new_empty(num_experts, dtype=torch.float32)
        given_E.uniform_(-0.3, 0.3, generator=random)
        bias = [given_E][: len(parameters) - 1]
        # Blocks call it with [B, S, H] or with [T, H]; some routers accept only one.
        own = _own_routing(router, x_TH, *bias) or _own_routing(router, x_TH.unsqueeze(0), *bias)
        if own is None or own.logits.shape[1] != num_experts:
            return None
        arguments = [x_TH, *bias]
        for maths in _candidates(router, names, own, len(parameters) == 2, num_experts):
            if _agrees(maths, router, arguments, own):
                return maths
    return None


def _linear_map(router: nn.Module, num_experts: int) -> tuple[str, str | None] | None:
    """Returns the names of the weight and bias if the router is one linear map."""
    parameters = dict(router.named_parameters())
    own_bias = selection_bias(router, num_experts)
    trained = {name: p for name, p in parameters.items() if p is not own_bias}
    weights = [n for n, p in trained.items() if p.ndim == 2 and p.shape[0] == num_experts]
    if len(weights) != 1:
        return None
    (weight,) = weights
    bias = weight.removesuffix("weight") + "bias"
    if trained.keys() - {weight, bias}:
        return None
    return weight, bias if bias in trained else None


@contextmanager
def _random_weights(router: nn.Module, random: torch.Generator) -> Iterator[None]:
    """Fills the router with random numbers temporarily, without the script's random state."""
    tensors = [t for t in (*router.parameters(), *router.buffers()) if t.is_floating_point()]
    kept = [tensor.detach().clone() for tensor in tensors]
    devices = [t.device for t in tensors if t.is_cuda]
    with torch.random.fork_rng(devices), torch.no_grad():
        try:
            for tensor in tensors:
                if tensor.ndim == 2 and tensor.shape[0] > 1:
                    tensor.data.normal_(std=tensor.shape[1] ** -0.5, generator=random)
                else:
                    tensor.data.uniform_(-0.3, 0.3, generator=random)
            yield
        finally:
            for tensor, values in zip(tensors, kept, strict=True):
                tensor.data.copy_(values)


def _random_tokens(
    weight_EH: torch.Tensor, dtype: torch.dtype, random: torch.Generator
) -> torch.Tensor:
    """Returns [T, H] whose logits have many magnitudes."""
    size = torch.linspace(0.1, 3.0, _TOKENS, device=weight_EH.device).unsqueeze(1)
    shape = (_TOKENS, weight_EH.shape[1])
    x_TH = torch.randn(shape, device=weight_EH.device, generator=random) * size
    x_TH[:_TIED_TOKENS] = 0.0
    return x_TH.to(dtype).requires_grad_()


def _own_routing(router: nn.Module, *arguments: torch.Tensor) -> RouterResult | None:
    """Returns the router's result if it is (logits, topk_weights, topk_idx)."""
    try:
        own = router.forward(*arguments)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return None  # it needs other arguments
    if not isinstance(own, tuple) or len(own) != 3:
        return None
    if not all(isinstance(part, torch.Tensor) and part.ndim == 2 for part in own):
        return None
    logits, weights, idx = own
    fits = len(logits) == len(weights) == len(idx) == _TOKENS and weights.shape == idx.shape
    return RouterResult(*own) if fits and idx.dtype == torch.long else None


def _candidates(
    router: nn.Module,
    names: tuple[str, str | None],
    own: RouterResult,
    takes_bias: bool,
    num_experts: int,
) -> Iterator[RouterMaths]:
    scales = {1.0, *_numbers(router, lambda name: "scal" in name)}
    for dtype, score, normalize, epsilon, scale, groups in itertools.product(
        (None, torch.float32),
        ("softmax", "topk_softmax", "sigmoid"),
        (False, True),
        (1e-20, 1e-6),
        scales,
        _groupings(router),
    ):
        if not normalize and epsilon != 1e-20:
            continue
        yield RouterMaths(
            weight=names[0],
            bias=names[1],
            product_dtype=dtype,
            logits_dtype=own.logits.dtype,
            has_selection_bias=selection_bias(router, num_experts) is not None,
            takes_selection_bias=takes_bias,
            top_k=own.topk_idx.shape[1],
            weights_dtype=own.topk_weights.dtype,
            options={
                "score": score,
                "normalize": normalize,
                "normalize_epsilon": epsilon,
                "scale": scale,
                **groups,
            },
        )


def _groupings(router: nn.Module) -> Iterable[dict[str, Any]]:
    """Yields no grouping, then the groupings that a router's numbers of groups allow."""
    yield {}
    groups = _numbers(router, lambda name: name in ("num_group", "n_group"))
    used = _numbers(router, lambda name: name == "topk_group")
    for count, topk, kind in itertools.product(groups, used, ("max", "top2_sum")):
        if count > 1:
            yield {"group_score": kind, "num_groups": int(count), "topk_groups": int(topk)}


def _numbers(router: nn.Module, wanted: Any) -> list[float]:
    values = (value for name, value in vars(router).items() if wanted(name))
    return [float(value) for value in values if type(value) in (int, float)]


def _agrees(
    maths: RouterMaths, router: nn.Module, arguments: list[torch.Tensor], own: RouterResult
) -> bool:
    """Whether the engine returns the router's result, with the same gradient."""
    if not torch.equal(maths.logits(router, arguments[0]), own.logits):
        return False
    try:
        mine = maths.route(router, *arguments, *[None][: 2 - len(arguments)])
    except (InvalidArgumentError, UnsupportedError):
        return False  # incompatible options
    (my_weights, my_logits), (own_weights, own_logits) = _ordered(mine), _ordered(own)
    if not torch.equal(my_logits, own_logits):
        return False
    if not _close(my_weights, own_weights, own.topk_weights.dtype):
        return False
    direction_TE = torch.randn_like(own.logits, dtype=own.topk_weights.dtype)
    gradients = [
        torch.autograd.grad(
            (weights * direction_TE.gather(1, idx)).sum(), arguments[0], retain_graph=True
        )[0]
        for _, weights, idx in (mine, own)
    ]
    # Among experts with equal logits the two may choose differently.
    same_T = (mine.topk_idx.sort(1).values == own.topk_idx.sort(1).values).all(1)
    if same_T.sum() < _TOKENS // 2:
        return False
    mine_TH, own_TH = (gradient[same_T] for gradient in gradients)
    return _close(mine_TH, own_TH, min(own.logits.dtype, own_TH.dtype, key=_bits))


def _ordered(routed: RouterResult) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the weights and logits of the chosen experts, by decreasing logit."""
    logits_TE, weights_TK, idx_TK = routed
    chosen_TK, order_TK = logits_TE.gather(1, idx_TK).sort(descending=True, stable=True)
    return weights_TK.gather(1, order_TK), chosen_TK


def _close(mine: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal up to rounding in a dtype."""
    ulps = 4 if _bits(dtype) >= 32 else 0.5  # in half precision, one rounding
    error = (mine.detach().double() - theirs.detach().double()).norm()
    return bool(error <= ulps * torch.finfo(dtype).eps * theirs.detach().double().norm())


def _bits(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits
