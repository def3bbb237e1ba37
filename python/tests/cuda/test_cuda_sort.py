"""The stable counting sort of slots by expert."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.cuda import lab
from support.cuda.lab import launch, long, poisoned

pytestmark = lab.needs_gpu

CHUNKS = 128


@dataclasses.dataclass
class Sorted:
    offsets: torch.Tensor
    row_of_slot: torch.Tensor
    slot_of_row: torch.Tensor
    tokens_per_expert: torch.Tensor
    fault: torch.Tensor


def num_warps(num_experts: int) -> int:
    """As many warps as 48 KiB hold counters for, at most 16."""
    return max(w for w in (1, 2, 4, 8, 16) if (w + 1) * (num_experts + 1) * 4 <= 48 * 1024)


def sort_by_expert(topk_idx: torch.Tensor, num_experts: int, *, one_block: bool) -> Sorted:
    count, buckets = topk_idx.numel(), num_experts + 1
    result = Sorted(
        poisoned(buckets, dtype=torch.int32),
        poisoned(count, dtype=torch.int32),
        poisoned(count, dtype=torch.int32),
        poisoned(num_experts, dtype=torch.int32),
        lab.fault_word(),
    )
    head = (topk_idx, long(count), num_experts)
    rows = (result.offsets, result.row_of_slot, result.slot_of_row)
    warps = num_warps(num_experts)
    shared = {"shared_bytes": 4 * (warps + 1) * buckets, "INDEX_BYTES": topk_idx.dtype.itemsize}
    if one_block:
        arguments = (*head, *rows, result.tokens_per_expert, result.fault)
        launch("sort_by_expert", "sort_in_one_block", (1,), 32 * warps, arguments, **shared)
        return result
    chunk_counts = poisoned(buckets * CHUNKS, dtype=torch.int32)
    bucket_counts = poisoned(buckets, dtype=torch.int32)
    launch(
        *("sort_by_expert", "sort_count", (CHUNKS,), 512, (*head, chunk_counts, result.fault)),
        **{**shared, "shared_bytes": 4 * buckets},
    )
    launch(
        *("sort_by_expert", "sort_scan", ((buckets + 7) // 8,), 256),
        (num_experts, chunk_counts, bucket_counts, result.tokens_per_expert),
        **{**shared, "shared_bytes": 0},
    )
    arguments = (*head, chunk_counts, bucket_counts, *rows)
    launch("sort_by_expert", "sort_place", (CHUNKS,), 32 * warps, arguments, **shared)
    return result


def check(topk_idx: torch.Tensor, num_experts: int, result: Sorted) -> None:
    flat = topk_idx.flatten().long().cpu()
    dropped = (flat < 0) | (flat >= num_experts)
    buckets = torch.where(dropped, num_experts, flat)
    order = torch.argsort(buckets, stable=True)
    counts = torch.bincount(buckets, minlength=num_experts + 1)
    rows = torch.empty_like(order)
    rows[order] = torch.arange(order.numel())
    assert torch.equal(result.tokens_per_expert.cpu().long(), counts[:num_experts])
    assert torch.equal(result.offsets.cpu().long(), counts.cumsum(0) - counts)
    assert torch.equal(result.slot_of_row.cpu().long(), order)
    assert torch.equal(result.row_of_slot.cpu().long(), torch.where(dropped, -1, rows))
    # -1 is no expert; any other that is none is reported.
    assert result.fault.item() == int((dropped & (flat != -1)).any())


def choices(case: str, num_tokens: int, top_k: int, num_experts: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_tokens + top_k)
    if case == "one expert":
        return torch.full((num_tokens, top_k), num_experts - 1)
    if case == "all experts":
        return torch.arange(num_experts).repeat(num_tokens, 1)
    scores = torch.rand(num_tokens, num_experts, generator=generator)
    if case == "skewed":
        scores[:, : num_experts // 4] += 0.7
    return scores.topk(top_k).indices


@pytest.mark.parametrize("one_block", [False, True])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    ("case", "num_tokens", "top_k", "num_experts"),
    [
        ("random", 0, 2, 8),
        ("random", 1, 1, 1),
        ("random", 1, 8, 128),
        ("random", 37, 3, 5),
        ("random", 700, 8, 128),
        ("skewed", 1031, 6, 60),
        ("one expert", 900, 1, 16),
        ("all experts", 33, 7, 7),
        ("random", 300, 2, 4096),
    ],
)
def test_sort_is_stable(
    case: str,
    num_tokens: int,
    top_k: int,
    num_experts: int,
    index_dtype: torch.dtype,
    one_block: bool,
) -> None:
    topk_idx = choices(case, num_tokens, top_k, num_experts).to(index_dtype).to(lab.DEVICE)
    result = sort_by_expert(topk_idx, num_experts, one_block=one_block)
    check(topk_idx, num_experts, result)


@pytest.mark.parametrize("one_block", [False, True])
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
def test_choices_of_no_expert_are_dropped(index_dtype: torch.dtype, one_block: bool) -> None:
    topk_idx = choices("random", 200, 4, 16).to(index_dtype)
    topk_idx[::7, 1] = -1
    topk_idx[::11, 2] = 16
    topk_idx[5] = torch.iinfo(index_dtype).max
    topk_idx[6] = torch.iinfo(index_dtype).min
    topk_idx = topk_idx.to(lab.DEVICE)
    check(topk_idx, 16, sort_by_expert(topk_idx, 16, one_block=one_block))


@pytest.mark.parametrize("one_block", [False, True])
def test_no_expert_is_no_fault(one_block: bool) -> None:
    topk_idx = choices("random", 200, 4, 16)
    topk_idx[::3, 1] = -1
    topk_idx[7] = -1
    topk_idx = topk_idx.to(lab.DEVICE)
    check(topk_idx, 16, sort_by_expert(topk_idx, 16, one_block=one_block))
    nobody = torch.full((50, 2), -1, dtype=torch.int32, device=lab.DEVICE)
    check(nobody, 16, sort_by_expert(nobody, 16, one_block=one_block))


def test_indices_of_64_bits_are_read_whole() -> None:
    topk_idx = torch.tensor([[1 << 32, 0]], device=lab.DEVICE)
    check(topk_idx, 4, sort_by_expert(topk_idx, 4, one_block=False))
