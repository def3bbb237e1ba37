"""What errors say of an exchange, and how a group is given up."""

from __future__ import annotations

import threading
import time

import numpy
import pytest
import torch

import autoep
from autoep import functional
from autoep.distributed.communicator import Communicator


def test_an_error_of_one_rank_has_no_step_and_no_ranks() -> None:
    with pytest.raises(autoep.InvalidArgumentError) as caught:
        functional.jitter(torch.ones(2, 2), 3.0, 0)
    assert caught.value.step is None
    assert caught.value.ranks == ()
    assert autoep.Error("text").ranks == ()


def test_a_deadline_names_the_step_and_the_ranks() -> None:
    comms = Communicator.local(3, timeout=0.3)
    assert comms[0].health() is None
    with pytest.raises(autoep.DeadlineError, match="rank") as caught:
        functional.exchange_counts([1, 2, 3], comm=comms[0])
    assert caught.value.ranks == (1, 2)
    assert caught.value.step


def test_a_failure_stays_the_health_of_its_group() -> None:
    comms = Communicator.local(2, timeout=0.3)
    with pytest.raises(autoep.DeadlineError) as caught:
        comms[0].barrier()
    found = comms[0].health()
    assert isinstance(found, autoep.Error)
    assert found.step == caught.value.step
    assert found.ranks == (1,)
    with pytest.raises(autoep.Error):
        comms[0].barrier()


def test_another_ranks_bad_choice_is_told_with_its_rank() -> None:
    from support.ranks import run_ranks

    x, weights = torch.ones(4, 8), torch.ones(4, 2)
    gate_up, down = torch.ones(2, 24, 8), torch.ones(2, 8, 12)

    def body(comm: Communicator) -> autoep.Error:
        idx = torch.zeros(4, 2, dtype=torch.int32) + (9 if comm.rank == 1 else 0)
        with pytest.raises(autoep.Error, match=r"topk_idx|rank 1 could not be") as caught:
            functional.experts(x, idx, weights, gate_up, down, num_experts=4, comm=comm)
        return caught.value

    told, own = run_ranks(2, body)
    assert isinstance(own, autoep.InvalidArgumentError)
    assert isinstance(told, autoep.CommunicationError)
    assert told.ranks == (1,)


def test_an_abort_ends_the_group_on_every_rank_of_this_process() -> None:
    comms = Communicator.local(2, timeout=60.0)
    comms[1].abort("the loss is NaN")
    for comm in comms:
        begin = time.monotonic()
        with pytest.raises(autoep.CommunicationError, match="the loss is NaN"):
            comm.barrier()
        assert time.monotonic() - begin < 10
        found = comm.health()
        assert isinstance(found, autoep.CommunicationError)
        assert "the loss is NaN" in str(found)


def test_an_abort_needs_no_reason() -> None:
    comm = Communicator.alone()
    comm.abort()
    with pytest.raises(autoep.CommunicationError):
        functional.all_to_all(numpy.arange(3), [3], comm=comm)


def test_an_abort_ends_an_exchange_that_waits() -> None:
    comms = Communicator.local(2, timeout=60.0)
    caught: list[autoep.Error] = []

    def wait() -> None:
        try:
            comms[0].barrier()
        except autoep.Error as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    begin = time.monotonic()
    waiting.start()
    time.sleep(0.2)
    comms[1].abort("another rank gave up")
    waiting.join()
    assert time.monotonic() - begin < 30
    assert isinstance(caught[0], autoep.CommunicationError)
