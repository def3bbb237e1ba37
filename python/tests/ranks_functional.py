"""Run by test_functional_ranks.py on every rank of a launch: `ranks_functional.py torch|mpi`."""

from __future__ import annotations

import os
import sys
import time

import torch
from random_layer import LayerShape, random_layer
from support.compare import assert_same_bits
from support.passes import rank_part

import autoep
from autoep import functional
from autoep.distributed.communicator import Communicator

EXPERTS, K = 7, 3
SPLITS = {1: [13], 2: [13, 0], 3: [4, 0, 9]}


def connect(transport: str, timeout: float = 60.0) -> Communicator:
    if transport == "mpi":
        return Communicator.mpi(timeout=timeout)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return Communicator.torch(timeout=timeout)


def check_rows_and_their_gradients_travel(comm: Communicator) -> None:
    sends = [(comm.rank + peer) % 3 for peer in range(comm.size)]
    x = torch.arange(sum(sends) * 2.0).view(-1, 2) + 100 * comm.rank
    x.requires_grad_()
    received = functional.all_to_all(x, sends, comm=comm)
    assert received.shape[0] == sum((peer + comm.rank) % 3 for peer in range(comm.size))
    (received * (comm.rank + 1)).sum().backward()
    owners = torch.repeat_interleave(torch.arange(comm.size), torch.tensor(sends))
    assert torch.equal(x.grad, (owners + 1.0).view(-1, 1).expand(-1, 2))


def check_experts_give_the_bits_of_one_rank(comm: Communicator) -> None:
    splits = SPLITS[comm.size]
    start = sum(splits[: comm.rank])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        layer = random_layer(LayerShape(sum(splits), K, EXPERTS, 16, 12), dtype, seed=5)
        part = rank_part(layer, comm, splits)
        expected = layer.run(functional.experts)
        actual = part.run(functional.experts, comm=comm, num_experts=EXPERTS)
        for index in (0, 1, 2):  # y, and the gradients to x and to the weights of the top-k
            mine = expected[index][start : start + splits[comm.rank]]
            assert_same_bits(actual[index].float(), mine.float())
    assert actual[1].shape[0] * K == part.topk_idx.numel()


def check_slots_without_experts(comm: Communicator) -> None:
    """By the experts, and by dispatch and combine; and a bad choice is told to all at once."""
    splits = SPLITS[comm.size]
    start = sum(splits[: comm.rank])
    own = slice(start, start + splits[comm.rank])
    shape = LayerShape(sum(splits), K, EXPERTS, 16, 12)
    layer = random_layer(shape, torch.float32, without_expert=3)
    part = rank_part(layer, comm, splits)
    for run in (functional.experts, doubled):
        expected = layer.clone().run(run)
        actual = part.clone().run(run, comm=comm, num_experts=EXPERTS)
        for index in (0, 1, 2):
            if expected[index] is not None:
                assert_same_bits(actual[index], expected[index][own])
    if comm.rank == 0:
        part.topk_idx[0, 0] = EXPERTS
    for run in (functional.experts, doubled):
        begin = time.monotonic()
        try:
            part.run(run, comm=comm, num_experts=EXPERTS)
        except autoep.Error as error:
            assert "topk_idx" in str(error) or error.ranks == (0,), error
        else:
            raise AssertionError("a choice that is no expert was taken")
        assert time.monotonic() - begin < 20


def doubled(
    x: torch.Tensor,
    topk_idx: torch.Tensor,
    topk_weights: torch.Tensor,
    *_: torch.Tensor,
    num_experts: int = EXPERTS,
    comm: Communicator | None = None,
    **__: None,
) -> torch.Tensor:
    """Experts that multiply by 2."""
    rows, _, plan = functional.dispatch(x, topk_idx, num_experts=num_experts, comm=comm)
    return functional.combine(2 * rows, plan, topk_weights)


def check_subgroups(comm: Communicator, transport: str) -> None:
    if comm.size < 2:
        return
    members = list(range(1, comm.size))
    group = torch.distributed.new_group(members) if transport == "torch" else None
    if comm.rank in members:
        part = Communicator.mpi(members) if transport == "mpi" else Communicator.torch(group)
        assert (part.rank, part.size) == (comm.rank - 1, comm.size - 1)
        assert functional.exchange_counts([comm.rank] * part.size, comm=part) == members
        part.close()
    comm.barrier()


def check_a_missing_rank_is_named(comm: Communicator) -> None:
    """The last case: it leaves the group unusable."""
    if comm.size < 2:
        return
    hasty = connect("torch", timeout=1.0)
    if comm.rank == 1:
        time.sleep(4)
        return
    try:
        functional.all_to_all(torch.zeros(comm.size * 1000, 100), comm=hasty)
    except autoep.DeadlineError as error:
        assert "rank 1" in str(error), error
    else:
        raise AssertionError("the exchange ended without rank 1")
    time.sleep(3)


def main(transport: str) -> None:
    comm = connect(transport)
    check_rows_and_their_gradients_travel(comm)
    check_experts_give_the_bits_of_one_rank(comm)
    check_slots_without_experts(comm)
    check_subgroups(comm, transport)
    if transport == "torch":
        check_a_missing_rank_is_named(comm)
    print(f"rank {comm.rank} of {comm.size} passed", flush=True)
    if transport == "torch":
        # The group's connections are gone, and its orderly end would wait for them.
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
