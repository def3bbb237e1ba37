"""Routing in a model's place: by the engine, with the behaviour of transformers' routers for NaN.

`functional.route` raises if a logit is NaN. In a model that would raise on one rank while the
others wait for it; plain HuggingFace models continue, with a loss of NaN.

Shapes: T tokens, E experts, K experts per token.
"""

from __future__ import annotations

from typing import Any

import torch

from autoep import functional
from autoep.errors import InvalidArgumentError
from autoep.functional import Routing


def choose_experts(logits_TE: torch.Tensor, top_k: int, **options: Any) -> Routing:
    """Routes tokens; one without a finite largest logit has weights of NaN, for any experts.

    Args:
        logits_TE: [T, E].
        top_k: K.
        **options: Options of `functional.route`.
    """
    # On a GPU the engine raises too late to name the call; while tracing, nothing has run yet.
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
    """Returns [T, 1]: NaN if a logit is NaN or +infinity, or all are -infinity; otherwise 0."""
    largest_T1 = logits_TE.detach().amax(1, keepdim=True)
    return largest_T1 - largest_T1
