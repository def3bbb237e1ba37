"""Plain torch versions of the operations, as the papers and HuggingFace write them."""

from __future__ import annotations

import torch
import torch.nn.functional as torch_functional


def route(
    logits: torch.Tensor,
    top_k: int,
    *,
    score: str = "softmax",
    normalize: bool = False,
    normalize_epsilon: float = 1e-20,
    scale: float = 1.0,
    selection_bias: torch.Tensor | None = None,
    group_score: str | None = None,
    num_groups: int = 1,
    topk_groups: int = 1,
    training: bool = True,
    sinkhorn_iterations: int = 3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns topk_idx [T, K] and topk_weights [T, K]; no ties are expected."""
    if score == "topk_softmax":
        values, idx = torch.topk(logits, top_k)
        weights = torch.softmax(values, -1)
    elif score == "sinkhorn":
        chosen_by = sinkhorn(logits.detach(), sinkhorn_iterations) if training else logits
        idx = torch.topk(chosen_by, top_k).indices
        scores = torch.sigmoid(logits) if top_k == 1 else torch.softmax(logits, -1)
        weights = scores.gather(1, idx)
    else:
        scores = torch.sigmoid(logits) if score == "sigmoid" else torch.softmax(logits, -1)
        chosen_by = scores if selection_bias is None else scores + selection_bias
        if group_score is not None:
            chosen_by = best_groups(chosen_by, group_score, num_groups, topk_groups)
        idx = torch.topk(chosen_by, top_k).indices
        weights = scores.gather(1, idx)
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + normalize_epsilon)
    return idx, weights * scale


def best_groups(
    scores: torch.Tensor, group_score: str, num_groups: int, topk_groups: int
) -> torch.Tensor:
    """Masks all experts but those of each token's best groups."""
    grouped = scores.view(scores.shape[0], num_groups, -1)
    if group_score == "max":
        quality = grouped.max(-1).values
    else:
        quality = grouped.topk(2, -1).values.sum(-1)
    best = torch.zeros_like(quality).scatter(1, quality.topk(topk_groups).indices, 1.0)
    return grouped.masked_fill(best.unsqueeze(-1) == 0, -torch.inf).flatten(1)


def sinkhorn(logits: torch.Tensor, iterations: int) -> torch.Tensor:
    """Sinkhorn's normalisation of exp(logits), as in S-BASE's implementation."""
    cost = torch.exp(logits)
    tokens, experts = cost.shape
    d0 = torch.ones(tokens, dtype=cost.dtype)
    d1 = torch.ones(experts, dtype=cost.dtype)
    for _ in range(iterations):
        d0 = 1 / tokens / ((d1 * cost).sum(1) + 1e-8)
        d1 = 1 / experts / ((d0.unsqueeze(1) * cost).sum(0) + 1e-8)
    return d1 * cost * d0.unsqueeze(1)


def permute(
    x: torch.Tensor, topk_idx: torch.Tensor, num_experts: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns rows [N, H], row_of_slot [T, K] and tokens_per_expert [E]."""
    flat = topk_idx.flatten().long()
    order = torch.argsort(flat, stable=True)
    row_of_slot = torch.empty_like(order)
    row_of_slot[order] = torch.arange(len(order))
    rows = x[order // topk_idx.shape[1]]
    return rows, row_of_slot.view(topk_idx.shape), torch.bincount(flat, minlength=num_experts)


def unpermute(
    rows: torch.Tensor, row_of_slot: torch.Tensor, topk_weights: torch.Tensor | None
) -> torch.Tensor:
    """Returns tokens [T, H]."""
    copies = rows[row_of_slot.long()]
    if topk_weights is not None:
        copies = copies * topk_weights.unsqueeze(-1)
    return copies.sum(1)


def grouped_gemm(
    rows: torch.Tensor, weights: torch.Tensor, rows_per_group: list[int], layout: str
) -> torch.Tensor:
    """Returns [R, out]."""
    blocks = rows.split(rows_per_group)
    matrices = weights.transpose(1, 2) if layout == "out_in" else weights
    return torch.cat([block @ matrix for block, matrix in zip(blocks, matrices, strict=True)])


def activate(
    hidden: torch.Tensor, activation: str, gate: str, alpha: float, limit: float
) -> torch.Tensor:
    """Returns [R, F] of the pre-activation [R, G]."""
    functions = {
        "silu": torch_functional.silu,
        "gelu": torch_functional.gelu,
        "gelu_tanh": lambda h: torch_functional.gelu(h, approximate="tanh"),
        "relu_squared": lambda h: torch_functional.relu(h).square(),
    }
    if gate == "none":
        return functions[activation](hidden)
    if gate == "interleaved":
        gates, ups = hidden[:, ::2], hidden[:, 1::2]
    else:
        gates, ups = hidden.chunk(2, -1)
    if activation == "clamped_swiglu":
        gates, ups = gates.clamp(max=limit), ups.clamp(-limit, limit)
        return (ups + 1) * gates * torch.sigmoid(alpha * gates)
    if activation == "clamped_silu":
        gates, ups = gates.clamp(max=limit), ups.clamp(-limit, limit)
        return torch_functional.silu(gates) * ups
    return functions[activation](gates) * ups


def experts(
    x: torch.Tensor,
    topk_idx: torch.Tensor,
    topk_weights: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    *,
    gate_up_bias: torch.Tensor | None = None,
    down_bias: torch.Tensor | None = None,
    activation: str = "silu",
    gate: str = "concatenated",
    layout: str = "out_in",
    score_apply: str = "after",
    swiglu_alpha: float = 1.702,
    swiglu_limit: float = 7.0,
) -> torch.Tensor:
    """Returns y [T, H], expert by expert."""
    if layout == "out_in":
        gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)
    y = torch.zeros_like(x)
    for expert in range(gate_up.shape[0]):
        tokens, k = torch.where(topk_idx == expert)
        weights = topk_weights[tokens, k].unsqueeze(-1).to(x.dtype)
        rows = x[tokens] * weights if score_apply == "before" else x[tokens]
        hidden = rows @ gate_up[expert]
        if gate_up_bias is not None:
            hidden = hidden + gate_up_bias[expert]
        out = activate(hidden, activation, gate, swiglu_alpha, swiglu_limit) @ down[expert]
        if down_bias is not None:
            out = out + down_bias[expert]
        y = y.index_add(0, tokens, out * weights if score_apply == "after" else out)
    return y
