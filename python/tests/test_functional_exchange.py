"""All-to-all between local ranks, threads, statistics."""

from __future__ import annotations

import os

import numpy
import pytest
import torch
from support.ranks import run_ranks

import autoep
from autoep import functional
from autoep.distributed.communicator import Communicator

# SENDS[p][q]: the rows that rank p sends to rank q; rank 1 sends nothing.
SENDS = [[2, 0, 3], [0, 0, 0], [1, 4, 0]]


def rows_of(rank: int, dtype: torch.dtype) -> torch.Tensor:
    count = sum(SENDS[rank])
    return (torch.arange(count * 4).view(count, 2, 2) + 100 * rank).to(dtype)


@pytest.mark.parametrize(
    "any_dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int32, torch.int64]
)
def test_uneven_splits_and_any_dtype(any_dtype: torch.dtype) -> None:
    def body(comm: Communicator) -> torch.Tensor:
        return functional.all_to_all(rows_of(comm.rank, any_dtype), SENDS[comm.rank], comm=comm)

    for rank, received in enumerate(run_ranks(3, body)):
        parts = [rows_of(source, any_dtype).split(SENDS[source])[rank] for source in range(3)]
        assert torch.equal(received, torch.cat(parts))


def test_the_gradient_travels_back() -> None:
    def body(comm: Communicator) -> tuple[torch.Tensor, torch.Tensor]:
        x = rows_of(comm.rank, torch.float64).requires_grad_()
        received = functional.all_to_all(x, SENDS[comm.rank], comm=comm)
        (received * received * (comm.rank + 1)).sum().backward()
        return x.detach(), x.grad

    for rank, (x, grad) in enumerate(run_ranks(3, body)):
        owners = torch.repeat_interleave(torch.arange(3), torch.tensor(SENDS[rank]))
        assert torch.equal(grad, 2 * x * (owners + 1).view(-1, 1, 1))


def test_equal_splits_need_no_counts() -> None:
    def body(comm: Communicator) -> list[int]:
        x = numpy.arange(6) + 10 * comm.rank
        return functional.all_to_all(x, comm=comm).tolist()

    assert run_ranks(2, body) == [[0, 1, 2, 10, 11, 12], [3, 4, 5, 13, 14, 15]]


def test_numpy_backward_inverts_the_forward() -> None:
    def body(comm: Communicator) -> bool:
        x = rows_of(comm.rank, torch.float32).numpy()
        receives = functional.exchange_counts(SENDS[comm.rank], comm=comm)
        assert receives == [SENDS[source][comm.rank] for source in range(3)]
        there = functional.all_to_all(x, SENDS[comm.rank], receives, comm=comm)
        back = functional.all_to_all_backward(there, SENDS[comm.rank], receives, comm=comm)
        return numpy.array_equal(back, x)

    assert all(run_ranks(3, body))


def test_rows_that_cannot_be_split_evenly_are_refused() -> None:
    def body(comm: Communicator) -> None:
        with pytest.raises(autoep.InvalidArgumentError, match="5 rows cannot be split evenly"):
            functional.all_to_all(torch.zeros(5, 2), comm=comm)

    run_ranks(2, body)


def test_a_missing_rank_is_named_at_the_deadline() -> None:
    present, _ = Communicator.local(2, timeout=0.2)
    with pytest.raises(autoep.DeadlineError, match="rank 1") as caught:
        present.barrier()
    assert isinstance(caught.value, TimeoutError)


def test_barrier_and_ranks() -> None:
    def body(comm: Communicator) -> tuple[int, int]:
        comm.barrier()
        return comm.rank, comm.size

    assert run_ranks(3, body) == [(0, 3), (1, 3), (2, 3)]
    alone = Communicator.alone()
    assert (alone.rank, alone.size) == (0, 1)


class Loopback:
    """A host transport of one rank that records what it was asked, and can fail."""

    def __init__(self, missing: object = ()) -> None:
        self.missing = missing
        self.views: list[memoryview] = []

    def start(self, send: list[memoryview], receive: list[memoryview]) -> str:
        self.views = [*send, *receive]
        receive[0][:] = send[0]
        return "request"

    def wait(self, request: str, timeout: float) -> object:
        assert request == "request" and timeout > 0
        if isinstance(self.missing, BaseException):
            raise self.missing
        return self.missing


def over(transport: object) -> Communicator:
    from autoep.core.native import engine

    return Communicator(engine.comm_create_callback(transport, 0, 1, 5.0))


def test_a_python_transport_carries_rows() -> None:
    transport = Loopback()
    assert functional.all_to_all(numpy.arange(4), [4], comm=over(transport)).tolist() == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(ValueError, match="released"):
        transport.views[0].tobytes()


def test_failures_of_a_python_transport_become_errors() -> None:
    cases = [
        (Loopback(missing=[0]), autoep.DeadlineError, "rank 0"),
        (Loopback(missing=[3]), autoep.CommunicationError, "not a rank"),
        (Loopback(missing=None), autoep.CommunicationError, "sequence of integers"),
        (Loopback(missing=OSError("the cable is cut")), autoep.CommunicationError, "cable is cut"),
        (object(), autoep.CommunicationError, "start"),
    ]
    for transport, error, text in cases:
        with pytest.raises(error, match=text):
            functional.all_to_all(numpy.arange(4), [4], comm=over(transport))


def test_threads_can_be_set() -> None:
    before = functional.num_threads()
    try:
        functional.set_num_threads(3)
        assert functional.num_threads() == 3
        functional.set_num_threads(1)
        assert functional.num_threads() == 1
    finally:
        functional.set_num_threads(before)


def test_statistics_count_and_reset() -> None:
    functional.reset_statistics()
    x = torch.randn(6, 4, requires_grad=True)
    idx = torch.tensor([[0, 1]] * 6)
    weights = torch.ones(6, 2)
    gate_up, down = torch.randn(2, 6, 4), torch.randn(2, 4, 3)

    def body(comm: Communicator) -> None:
        mine = slice(3 * comm.rank, 3 * comm.rank + 3)
        part = slice(comm.rank, comm.rank + 1)
        y = functional.experts(
            x[mine],
            idx[mine],
            weights[mine],
            gate_up[part],
            down[part],
            num_experts=2,
            comm=comm,
        )
        y.detach()

    run_ranks(2, body)
    assert functional.statistics() == functional.Statistics(
        forward_calls=2,
        backward_calls=0,
        rows_sent=12,
        rows_sent_remote=6,
        rows_received=12,
        bytes_sent_remote=2 * 6 * 4 * 4,  # there and back, 6 rows of 4 floats
    )
    functional.reset_statistics()
    assert functional.statistics() == functional.Statistics(0, 0, 0, 0, 0, 0)


def test_a_forked_child_can_compute() -> None:
    expected = functional.router_z_loss(numpy.ones((4, 8), numpy.float32))
    child = os.fork()
    if child == 0:
        answer = functional.router_z_loss(numpy.ones((4, 8), numpy.float32))
        os._exit(0 if answer == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
