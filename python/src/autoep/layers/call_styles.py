"""The ways in which blocks call their experts, and conversions to and from the engine's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class RoutedTokens(NamedTuple):
    """Tokens with their experts, in the engine's form."""

    x: torch.Tensor  # [..., H]
    topk_idx: torch.Tensor  # [T, K]
    topk_weights: torch.Tensor  # [T, K]


class Call(NamedTuple):
    """One way of calling.

    Attributes:
        receive: Converts the block's arguments to the engine's form.
        send: Converts those and the number of experts to the block's arguments.
    """

    receive: Callable[..., RoutedTokens]
    send: Callable[..., tuple[Any, ...]]


def _chosen(weights_TE: torch.Tensor, topk_idx_TK: torch.Tensor) -> torch.Tensor:
    return weights_TE.gather(1, topk_idx_TK.long())


def _dense(topk_idx_TK: torch.Tensor, topk_weights_TK: torch.Tensor, count: int) -> torch.Tensor:
    zeros_TE = topk_weights_TK.new_zeros(len(topk_idx_TK), count)
    return zeros_TE.scatter(1, topk_idx_TK.long(), topk_weights_TK)


def _routed(hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> RoutedTokens:
    return RoutedTokens(hidden_states, top_k_index, top_k_weights)


def _with_dense_weights(
    hidden_states: Any, router_indices: Any, routing_weights: Any
) -> RoutedTokens:
    return RoutedTokens(hidden_states, router_indices, _chosen(routing_weights, router_indices))


def _dense_weights_first(
    hidden_states: Any, routing_weights: Any, router_indices: Any
) -> RoutedTokens:
    return RoutedTokens(hidden_states, router_indices, _chosen(routing_weights, router_indices))


def _all_weights_too(x: Any, weights: Any, top_weights: Any, top_experts: Any) -> RoutedTokens:
    return RoutedTokens(x, top_experts, top_weights)


CALLS = {
    "routed": Call(_routed, lambda x, idx, w, count: (x, idx, w)),
    "dense": Call(_with_dense_weights, lambda x, idx, w, count: (x, idx, _dense(idx, w, count))),
    "dense first": Call(
        _dense_weights_first, lambda x, idx, w, count: (x, _dense(idx, w, count), idx)
    ),
    "all weights": Call(
        _all_weights_too, lambda x, idx, w, count: (x[None], _dense(idx, w, count), w, idx)
    ),
}
