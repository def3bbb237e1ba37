"""The threads of each rank, where several ranks share a host."""

from __future__ import annotations

import os
import socket

import torch
import torch.distributed as dist

from autoep.core.contexts import set_num_threads
from autoep.distributed.launch import World


def share_cores(world: World, num_threads: int | None) -> None:
    """Sets the engine's threads so that the ranks of a host do not use each other's cores.

    `AUTOEP_NUM_THREADS` and the configuration take precedence. torch's own threads are set only
    if nobody chose them: under mpirun without OMP_NUM_THREADS (torchrun sets it).
    """
    if num_threads is not None:
        set_num_threads(num_threads)
    if world.size == 1:
        return
    share = _core_share()
    if num_threads is None and "AUTOEP_NUM_THREADS" not in os.environ:
        set_num_threads(share)
    if world.mpi and not {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys():
        torch.set_num_threads(min(share, torch.get_num_threads()))


def _core_share() -> int:
    """Returns the cores of this process divided by the number of ranks that may use them too."""
    cores = os.sched_getaffinity(0)
    everyone: list[tuple[str, set[int]]] = [("", set())] * dist.get_world_size()
    dist.all_gather_object(everyone, (socket.gethostname(), cores))
    sharers = sum(host == socket.gethostname() and bool(cores & other) for host, other in everyone)
    return max(1, len(cores) // sharers)
