"""The device of each rank: its own GPU, or the CPU for all ranks."""

from __future__ import annotations

import socket
from typing import NamedTuple

import torch
import torch.distributed as dist

from autoep.distributed.launch import World
from autoep.errors import CommunicationError, ModelError


class Seat(NamedTuple):
    """Where a rank computes, in terms that all ranks share."""

    host: str
    gpu: str  # the UUID of the GPU; empty for the CPU


def device_of_rank(model_device: torch.device, world: World) -> torch.device:
    """Returns the device that this rank computes on; collective.

    That is the GPU that holds its model. One of several ranks whose model is on the CPU takes the
    GPU with its local rank, or the only one that it sees, as under srun. If no rank sees a GPU, all
    compute on the CPU. A single rank computes where its model is.

    Raises:
        ModelError: Two ranks are on one GPU, or some ranks are on GPUs and others are not.
        CommunicationError: torch.distributed cannot carry tensors of the CPU or of the device.
    """
    if world.size == 1:
        return model_device
    device = model_device if model_device.type == "cuda" else _own_gpu(world.local_rank)
    _check_backends(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    _check_seats(device, world)
    return device


def _own_gpu(local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if count == 0:
        return torch.device("cpu")
    # With fewer GPUs than ranks, two ranks take the same one, and `_check_seats` raises on all.
    return torch.device("cuda", local_rank % count)


def _check_backends(device: torch.device) -> None:
    for kind in dict.fromkeys(("cpu", device.type)):
        try:
            dist.group.WORLD._get_backend(torch.device(kind))
        except RuntimeError:
            raise CommunicationError(
                f"torch.distributed was started without a backend for {kind} tensors. Start it with"
                ' init_process_group("cpu:gloo,cuda:nccl"), or leave that to autoep.initialize.'
            ) from None


def _check_seats(device: torch.device, world: World) -> None:
    seats: list[Seat] = [Seat("", "")] * world.size
    dist.all_gather_object(seats, _seat(device))
    on_gpus = [rank for rank, seat in enumerate(seats) if seat.gpu]
    if not on_gpus:
        return
    on_cpus = [rank for rank, seat in enumerate(seats) if not seat.gpu]
    if on_cpus:
        raise ModelError(
            f"rank {on_cpus[0]} sees no GPU and rank {on_gpus[0]} does, but all ranks must compute"
            " on GPUs or all on CPUs. Start one rank per GPU on every host, or set"
            " CUDA_VISIBLE_DEVICES to nothing to train on CPUs."
        )
    for rank, seat in enumerate(seats):
        first = seats.index(seat)
        if first != rank:
            raise ModelError(
                f"ranks {first} and {rank} are on the same GPU of {seat.host} ({seat.gpu}). Start"
                " at most one rank per GPU, and leave the model on the CPU or move it to"
                " cuda:LOCAL_RANK before autoep.initialize."
            )


def _seat(device: torch.device) -> Seat:
    if device.type != "cuda":
        return Seat(socket.gethostname(), "")
    return Seat(socket.gethostname(), str(torch.cuda.get_device_properties(device).uuid))
