"""The ranks that share one set of experts (EP), and those that hold the same experts (EDP)."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from autoep.distributed.communicator import Communicator
from autoep.distributed.gpus import between_gpus
from autoep.distributed.launch import World
from autoep.distributed.link import Link
from autoep.distributed.shutdown import has_failed, release_at_exit
from autoep.errors import CommunicationError, ConfigError


@dataclass(frozen=True)
class ExpertGroups:
    """The groups of this rank.

    Attributes:
        ep_size: The number of ranks that share one set of experts.
        ep_rank: The index of this rank among them.
        comm: The communicator between them.
        mesh: The ranks as [EDP, EP], dimensions named "edp" and "ep"; None for a single rank.
    """

    ep_size: int
    ep_rank: int
    comm: Communicator
    mesh: DeviceMesh | None

    @property
    def ep_mesh(self) -> DeviceMesh | None:
        """The mesh over which the experts are sharded."""
        return None if self.mesh is None else self.mesh["ep"]

    def check_health(self) -> None:
        """Raises on all ranks if rows did not reach their experts on one; collective.

        On CPUs an exchange raises by itself. On GPUs it is enqueued: its failure is known when the
        device has come to it.
        """
        if self.ep_size == 1 or self.mesh is None or self.mesh.device_type == "cpu":
            return
        failure = self.comm.health()
        failed = torch.tensor(-1 if failure is None else dist.get_rank())
        dist.all_reduce(failed, op=dist.ReduceOp.MAX)
        if failed >= 0:
            raise failure or CommunicationError(
                f"rank {int(failed)} failed to exchange rows, and its gradients are wrong; the"
                " error there says why"
            )


def choose_ep_size(wanted: int | None, world_size: int, num_experts: int) -> int:
    """Returns the size of the EP groups: the configured one, checked, or a chosen one.

    Args:
        wanted: The configured size; None for the largest that leaves no rank idle.
        world_size: The number of ranks.
        num_experts: E of the layer with the fewest experts.

    Raises:
        ConfigError: `wanted` does not divide the number of ranks.
    """
    divisors = [size for size in range(1, world_size + 1) if world_size % size == 0]
    if wanted is None:
        return max(size for size in divisors if size <= num_experts)
    if wanted not in divisors:
        raise ConfigError(
            f"config: expert_parallel.autoep_size: given {wanted}; allowed with {world_size} ranks:"
            f" {', '.join(map(str, divisors))}. Change it, or launch a multiple of {wanted} ranks."
        )
    return wanted


def make_groups(world: World, ep_size: int, link: Link) -> ExpertGroups:
    """Creates the groups, in which consecutive ranks share experts; collective over all ranks.

    Engines of the same size share them, because a process group has threads and sockets.

    Args:
        world: All ranks.
        ep_size: The number of ranks per EP group; divides that of all ranks.
        link: How the ranks of an EP group exchange rows.
    """
    if world.size == 1:
        return ExpertGroups(1, 0, Communicator.alone(), None)
    return _make_groups(dist.group.WORLD, world, ep_size, link)


@functools.cache
def _make_groups(
    everyone: dist.ProcessGroup, world: World, ep_size: int, link: Link
) -> ExpertGroups:
    """Creates the groups once per process group of all ranks."""
    grid = torch.arange(world.size).view(-1, ep_size)  # [EDP, EP]
    # Always a new group, even if it contains all ranks: its exchanges must not mix with the
    # all-reduces of the gradients.
    ep_group = _own_group(grid.tolist(), world.rank, link)
    edp_group = _own_group(grid.t().tolist(), world.rank, link)
    mesh = DeviceMesh.from_group(
        [edp_group, ep_group], link.device.type, mesh=grid, mesh_dim_names=("edp", "ep")
    )
    comm = make_communicator(world, ep_group, link)
    release_at_exit(functools.partial(_release, comm, (ep_group, edp_group)))
    return ExpertGroups(ep_size, world.rank % ep_size, comm, mesh)


def _release(comm: Communicator, groups: tuple[dist.ProcessGroup, ...]) -> None:
    comm.close()
    _make_groups.cache_clear()
    end_groups(*groups)


def end_groups(*groups: dist.ProcessGroup) -> None:
    """Destroys groups that this package created, unless the script has destroyed all groups.

    Does nothing after an uncaught exception, when an exchange may be in progress.
    """
    if has_failed() or not dist.is_initialized():
        return
    for group in dict.fromkeys(groups):
        with contextlib.suppress(ValueError):  # the script destroyed it and made others
            dist.destroy_process_group(group)


def _own_group(all_ranks: list[list[int]], rank: int, link: Link) -> dist.ProcessGroup:
    """Creates the groups of a partition and returns the one with this rank."""
    wait = timedelta(seconds=link.timeout)
    made = [dist.new_group(ranks, timeout=wait) for ranks in all_ranks]
    return next(group for group, ranks in zip(made, all_ranks, strict=True) if rank in ranks)


def make_communicator(world: World, ep_group: dist.ProcessGroup, link: Link) -> Communicator:
    """Creates the communicator of an EP group; collective over its ranks."""
    comm = _transport(world, ep_group, link)
    comm.dispatch = link.dispatch
    return comm


def _transport(world: World, ep_group: dist.ProcessGroup, link: Link) -> Communicator:
    ranks = dist.get_process_group_ranks(ep_group)
    if len(ranks) == 1:
        return Communicator.alone()
    if link.device.type == "cuda":
        return between_gpus(ep_group, link)
    if world.mpi:
        return Communicator.mpi(ranks, link.timeout)
    return Communicator.torch(ep_group, link.timeout)
