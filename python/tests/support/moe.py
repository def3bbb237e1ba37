"""`functional.moe`, and the same by the single operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from random_layer import LayerShape, random_layer

from autoep import functional
from support.compare import assert_close

T, K, E, H, FFN = 13, 2, 5, 8, 6
LEAVES = ("x", "router", "gate_up", "gate_up_bias", "down", "down_bias")
ROUTING = {"score": "sigmoid", "normalize": True, "scale": 2.0}
COMPUTING = {"activation": "gelu", "score_apply": "before"}


def inputs(dtype: torch.dtype = torch.float64, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Returns the tensors of `functional.moe`."""
    shape = LayerShape(T, K, E, H, FFN, biases=True)
    layer = random_layer(shape, dtype, seed=5, device=device)
    return {name: getattr(layer, name) for name in LEAVES}


def apart(
    given: dict[str, Any],
    routing: dict[str, Any],
    computing: dict[str, Any],
    product: Callable[..., torch.Tensor] = torch.nn.functional.linear,
    **others: Any,
) -> functional.MoE:
    """Computes the same with a linear map (torch's by default), `route` and `experts`."""
    logits = product(given["x"], given["router"])
    routed = functional.route(logits, K, **others, **routing)
    weights = {name: given[name] for name in LEAVES[2:]}
    y = functional.experts(given["x"], routed.topk_idx, routed.topk_weights, **weights, **computing)
    return functional.MoE(y, logits, routed.topk_idx, routed.tokens_per_expert)


def together(
    given: dict[str, Any], routing: dict[str, Any], computing: dict[str, Any], **others: Any
) -> functional.MoE:
    return functional.moe(**given, top_k=K, routing=routing, computing=computing, **others)


def results(found: functional.MoE, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Returns all results of a call, and the gradients of a loss with an auxiliary one."""
    loss = found.y.square().sum() + 0.1 * torch.logsumexp(found.logits, -1).square().sum()
    return [t.detach() for t in (*found, *torch.autograd.grad(loss, leaves))]


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert torch.equal(actual[2], expected[2])
    assert torch.equal(actual[3], expected[3])
    kept = [0, 1, *range(4, len(expected))]
    assert_close([actual[i] for i in kept], [expected[i] for i in kept])
