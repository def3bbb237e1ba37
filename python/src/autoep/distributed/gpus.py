"""The communicator of ranks that compute on GPUs."""

from __future__ import annotations

import logging

import torch
import torch.distributed as dist

from autoep.distributed.communicator import Communicator
from autoep.distributed.link import Link
from autoep.errors import UnsupportedError

_log = logging.getLogger("autoep")


def between_gpus(ep_group: dist.ProcessGroup, link: Link) -> Communicator:
    """Creates the communicator of an EP group whose ranks have a GPU each; collective.

    Raises:
        UnsupportedError: `link.transport` is "push", and a GPU does not reach another's memory.
    """
    comm = _over_nccl(ep_group, link)
    if link.transport == "nccl":
        _log_choice(comm, "over NCCL, as the configuration says")
        return comm
    try:
        pushing = Communicator.push(comm, link.device.index, link.timeout)
    except UnsupportedError as reason:
        if link.transport == "push":
            raise
        _log_choice(comm, f"over NCCL, because they cannot be pushed: {reason}")
        return comm
    # The push communicator keeps NCCL's alive.
    comm.close()
    _log_choice(pushing, "by pushes over NVLink, because all GPUs reach each other's memory")
    return pushing


def _over_nccl(ep_group: dist.ProcessGroup, link: Link) -> Communicator:
    """Creates a communicator over NCCL; its id travels through the group."""
    first = dist.get_process_group_ranks(ep_group)[0]
    unique_id = [Communicator.nccl_unique_id() if dist.get_rank() == first else None]
    dist.broadcast_object_list(unique_id, src=first, group=ep_group, device=torch.device("cpu"))
    rank, size = dist.get_rank(ep_group), dist.get_world_size(ep_group)
    return Communicator.nccl(unique_id[0], rank, size, link.device.index, link.timeout)


def _log_choice(comm: Communicator, how: str) -> None:
    if dist.get_rank() == 0:
        _log.info("the experts of %d ranks exchange rows %s", comm.size, how)
