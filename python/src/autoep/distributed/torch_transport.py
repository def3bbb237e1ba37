"""A transport over torch.distributed, for `Communicator.torch`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from autoep.errors import UnsupportedError

_MILLISECOND = timedelta(milliseconds=1)


@dataclass
class _Message:
    """One rank's part of an exchange in progress."""

    rank: int
    arrives: bool  # False for a message that is sent
    work: dist.Work


class TorchTransport:
    """Exchanges rows with one message to and from each rank; the C extension calls it.

    Attributes:
        rank: This rank within the group.
        size: The number of ranks.
    """

    def __init__(self, process_group: dist.ProcessGroup | None) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise UnsupportedError(
                "torch.distributed is not initialised; call"
                " torch.distributed.init_process_group('gloo') first"
            )
        self._group = dist.group.WORLD if process_group is None else process_group
        self.rank = dist.get_rank(self._group)
        self.size = dist.get_world_size(self._group)
        if self.rank < 0:
            raise UnsupportedError("process_group: this process is not one of its ranks")
        _check_moves_cpu_memory(self._group)

    def start(self, send: list[memoryview], receive: list[memoryview]) -> list[_Message]:
        """Starts exchanging one block of bytes with each rank."""
        receive[self.rank][:] = send[self.rank]
        others = [p for p in range(self.size) if p != self.rank]
        receives = [self._receive(receive[p], p) for p in others if receive[p].nbytes]
        sends = [self._send(send[p], p) for p in others if send[p].nbytes]
        return receives + sends

    def wait(self, messages: list[_Message], timeout: float) -> list[int]:
        """Waits for all messages; returns the ranks whose messages did not arrive in time.

        gloo closes all its connections at the first late message, and thereby releases the
        memory. Messages that arrived by then still count, so the others are the missing ones.
        """
        deadline = time.monotonic() + timeout
        late: list[_Message] = []
        for message in messages:
            remaining = timedelta(seconds=deadline - time.monotonic())
            try:
                # gloo counts whole milliseconds: one more, so as not to end before the deadline.
                message.work.wait(max(remaining, timedelta()) + _MILLISECOND)
            except RuntimeError as error:
                if not late and time.monotonic() < deadline:
                    raise RuntimeError(f"exchange with rank {message.rank}: {error}") from error
                late.append(message)
        # A rank that is itself blocked does not receive either: report the ranks whose sends are
        # missing, and late receivers only if no send is missing.
        arriving = [message for message in late if message.arrives]
        return sorted({message.rank for message in arriving or late})

    def _receive(self, memory: memoryview, rank: int) -> _Message:
        work = dist.irecv(_bytes(memory), group=self._group, group_src=rank)
        return _Message(rank, True, work)

    def _send(self, memory: memoryview, rank: int) -> _Message:
        work = dist.isend(_bytes(memory), group=self._group, group_dst=rank)
        return _Message(rank, False, work)


def _bytes(memory: memoryview) -> torch.Tensor:
    return torch.frombuffer(memory, dtype=torch.uint8)


def _check_moves_cpu_memory(group: dist.ProcessGroup) -> None:
    try:
        group._get_backend(torch.device("cpu"))
    except RuntimeError as error:
        raise UnsupportedError(
            "process_group: it has no backend for CPU tensors, which the experts' exchange needs;"
            " make it with 'gloo', or with 'cpu:gloo,cuda:nccl'"
        ) from error
