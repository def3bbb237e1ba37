"""Starting the ranks: by mpirun, by torchrun, by the script itself, or as a single rank."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from autoep.core.cores import HOST_SIZES, number_from_environment
from autoep.core.native import engine
from autoep.distributed.communicator import Communicator
from autoep.distributed.shutdown import has_failed, release_at_exit
from autoep.errors import CommunicationError

# Variables that MPI launchers set to the number of ranks, and to this rank's index on its host
# (Open MPI; MPICH and its derivatives).
_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_LOCAL_RANKS = ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID")

_ADDRESS_INTS = 256

# The process group of all ranks, if this module created it.
_begun: dist.ProcessGroup | None = None

# The world joined over MPI; a second call finds its process group already initialised.
_joined_over_mpi: World | None = None


class World(NamedTuple):
    """All ranks of the run, and this one among them.

    Attributes:
        rank: This rank, from 0.
        size: The number of ranks; torch.distributed is initialised if it is above 1.
        local_rank: The index of this rank on its host.
        mpi: Whether rows travel over MPI; otherwise over torch.distributed.
    """

    rank: int
    size: int
    local_rank: int
    mpi: bool


def join_world(timeout: float) -> World:
    """Detects how this process was launched; initialises torch.distributed for several ranks.

    A process group that the script initialised is used as it is.

    Args:
        timeout: Seconds after which a missing rank is an error.
    """
    if _joined_over_mpi is not None:
        return _joined_over_mpi
    if dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size(), _local_rank(), mpi=False)
    if number_from_environment("WORLD_SIZE") > 1 and "RANK" in os.environ:
        _begin_process_group(timeout)
        return World(dist.get_rank(), dist.get_world_size(), _local_rank(), mpi=False)
    if number_from_environment(*_MPI_SIZES) > 1:
        return _join_over_mpi(timeout)
    return World(0, 1, 0, mpi=False)


def _join_over_mpi(timeout: float) -> World:
    global _joined_over_mpi
    comm = Communicator.mpi(timeout=timeout)
    announced = number_from_environment(*_MPI_SIZES)
    if comm.size != announced:
        raise CommunicationError(
            f"the launcher started {announced} ranks, but MPI knows {comm.size}: autoep was built"
            " with another MPI than the mpirun in use; use one MPI for both"
        )
    store = _shared_store(comm, timeout)
    _begin_process_group(timeout, store=store, rank=comm.rank, world_size=comm.size)
    _joined_over_mpi = World(comm.rank, comm.size, _local_rank(), mpi=True)
    return _joined_over_mpi


def _begin_process_group(timeout: float, **how: Any) -> None:
    global _begun
    # Objects and CPU tensors travel by gloo, the tensors of GPUs by NCCL.
    backend = "cpu:gloo,cuda:nccl" if _has_nccl() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout), **how)
    _begun = dist.group.WORLD
    release_at_exit(_end_process_group)


def _has_nccl() -> bool:
    return torch.cuda.is_available() and dist.is_nccl_available()


def _end_process_group() -> None:
    """Destroys the process group of all ranks, if it is still the one created here."""
    global _begun
    ours = _begun is not None and dist.is_initialized() and dist.group.WORLD is _begun
    _begun = None
    if ours and not has_failed():
        dist.destroy_process_group()


def _shared_store(comm: Communicator, timeout: float) -> dist.TCPStore:
    """Opens a store on a free port of rank 0 and broadcasts its address."""
    wait = timedelta(seconds=timeout)
    if comm.rank != 0:
        host, port = _from_rank_zero(comm, "").rsplit(":", 1)
        return dist.TCPStore(host, int(port), comm.size, is_master=False, timeout=wait)
    host = _own_address(comm.size)
    store = dist.TCPStore(host, 0, comm.size, is_master=True, timeout=wait, wait_for_workers=False)
    _from_rank_zero(comm, f"{host}:{store.port}")
    return store


def _own_address(size: int) -> str:
    one_host = number_from_environment(*HOST_SIZES) == size
    return "127.0.0.1" if one_host else socket.getfqdn()


def _from_rank_zero(comm: Communicator, text: str) -> str:
    """Broadcasts the text of rank 0, at most 256 bytes; collective."""
    letters = text.encode().ljust(_ADDRESS_INTS, b"\0")
    row = torch.tensor([list(letters)], dtype=torch.int32)
    is_sender = comm.rank == 0
    sends = [int(is_sender)] * comm.size
    rows = row.repeat(comm.size, 1) if is_sender else row[:0]
    receives = [int(source == 0) for source in range(comm.size)]
    received = torch.empty_like(row)
    engine.all_to_all(comm.handle, rows, sends, received, receives)
    return bytes(received[0].tolist()).rstrip(b"\0").decode()


def _local_rank() -> int:
    return number_from_environment(*_LOCAL_RANKS)
