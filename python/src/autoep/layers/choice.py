"""Choosing experts in a model's place: as the engine does, and for NaN as transformers' routers do.

`functional.route` raises for logits that are NaN. In a model that would raise on one rank, and
leave the others waiting for it; plain HuggingFace models go on, and their loss is NaN.

Shapes: T tokens, E experts, K experts per token.
"""

from __future__ import annotations

from typing import Any

import torch

from autoep import functional
from autoep.errors import InvalidArgumentError
from autoep.functional import Routing


def choose_experts(logits_TE: torch.Tensor, top_k: int, **options: Any) -> Routing:
    """Routes; a token without a finite largest logit has weights of NaN, for any experts.

    Args:
        logits_TE: [T, E].
        top_k: K.
        **options: Of `functional.route`.
    """
    # There the engine says too late which call was wrong, or the choice is not made yet.
    if logits_TE.is_cuda or torch.compiler.is_compiling():
        return _choose_beside_nan(logits_TE, top_k, options)
    try:
        return functional.route(logits_TE, top_k, **options)
    except InvalidArgumentError:
        if bool(_poison(logits_TE).isfinite().all()):
            raise
        return _choose_beside_nan(logits_TE, top_k, options)


def _choose_beside_nan(logits_TE: torch.Tensor, top_k: int, options: dict[str, Any]) -> Routing:
    routed = functional.route(torch.nan_to_num(logits_TE, nan=0.0, posinf=0.0), top_k, **options)
    weights_TK = routed.topk_weights
    return routed._replace(topk_weights=weights_TK + _poison(logits_TE).to(weights_TK.dtype))


def _poison(logits_TE: torch.Tensor) -> torch.Tensor:
    """[T, 1]: 0, and NaN for tokens with a logit of NaN or infinity, or none above -infinity."""
    largest_T1 = logits_TE.detach().amax(1, keepdim=True)
    return largest_T1 - largest_T1
