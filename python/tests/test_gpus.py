"""How ranks on GPUs are connected, without a GPU: what is tried, and what is told."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoep.distributed import gpus, groups
from autoep.distributed.groups import ExpertGroups
from autoep.distributed.link import Link
from autoep.errors import CommunicationError, DeadlineError, UnsupportedError


class Connected:
    """Stands in for a communicator.

    Attributes:
        way: The way that it takes.
        is_closed: Whether the caller has closed it.
    """

    size = 2

    def __init__(self, way: str) -> None:
        self.way = way
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Connected]:
    """The communicators made over NCCL; pushing ones are refused unless a test allows them."""
    found: list[Connected] = []

    def over_nccl(*_: Any) -> Connected:
        found.append(Connected("nccl"))
        return found[-1]

    def push(*_: Any) -> Connected:
        raise UnsupportedError("rank 1 runs on another host")

    monkeypatch.setattr(gpus, "_over_nccl", over_nccl)
    monkeypatch.setattr(gpus.Communicator, "push", push)
    monkeypatch.setattr(gpus.dist, "get_rank", lambda: 0)
    return found


def connect(transport: str) -> Connected:
    link = Link(torch.device("cuda", 0), 60.0, "tokens", transport)
    return gpus.between_gpus(None, link)


def test_rows_are_pushed_where_that_is_possible(
    made: list[Connected], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpus.Communicator, "push", lambda *_: Connected("push"))
    with caplog.at_level(logging.INFO, "autoep"):
        assert connect("auto").way == connect("push").way == "push"
    assert [comm.is_closed for comm in made] == [True, True]
    assert "2 ranks exchange rows by pushes over NVLink" in caplog.text


def test_else_rows_go_over_nccl(made: list[Connected], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "autoep"):
        assert connect("auto") is made[0]
    assert not made[0].is_closed
    assert "over NCCL, because they cannot be pushed: rank 1 runs on another host" in caplog.text


def test_the_configuration_decides(made: list[Connected]) -> None:
    assert connect("nccl") is made[0]
    with pytest.raises(UnsupportedError, match="another host"):
        connect("push")


@pytest.mark.parametrize("worst", [-1, 0, 1])
def test_a_failed_exchange_ends_the_step_on_all_ranks(
    worst: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two ranks this one is rank 0; `worst` is the last rank that failed."""
    own = DeadlineError("rank 1 did not join") if worst == 0 else None
    comm = SimpleNamespace(health=lambda: own)
    monkeypatch.setattr(groups.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(groups.dist, "all_reduce", lambda tensor, **_: tensor.fill_(worst))
    of_gpus = ExpertGroups(2, 0, comm, SimpleNamespace(device_type="cuda"))
    if worst < 0:
        of_gpus.check_health()
    else:
        text, kind = [("did not join", DeadlineError), ("rank 1 failed", CommunicationError)][worst]
        with pytest.raises(kind, match=text):
            of_gpus.check_health()
    ExpertGroups(2, 0, comm, SimpleNamespace(device_type="cpu")).check_health()
