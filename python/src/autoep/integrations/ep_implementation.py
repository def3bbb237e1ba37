"""`ep_implementation="autoep"`: transformers' own expert parallelism, with the engine inside.

transformers shards and loads the weights and reduces the gradients; the engine dispatches the
tokens and computes the experts. The ranks of a tensor-parallel group hold the same batch, so
each of them takes its share of the tokens.
"""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from transformers.distributed.expert_parallel import EPImplementation

from autoep.distributed.communicator import DEFAULT_TIMEOUT, Communicator
from autoep.distributed.groups import end_groups, make_communicator
from autoep.distributed.launch import join_world
from autoep.distributed.link import Link
from autoep.distributed.shutdown import release_at_exit
from autoep.distributed.threads import share_cores
from autoep.errors import UnsupportedError
from autoep.integrations.remembered_spec import spec_of
from autoep.layers.experts import run_experts


class ExpertParallelism(EPImplementation):
    """Computes the experts of one layer; transformers creates one instance per layer."""

    def __init__(self, experts: nn.Module, ep_mesh: DeviceMesh, tp_mesh: DeviceMesh) -> None:
        super().__init__(experts, ep_mesh, tp_mesh)
        self._experts = experts
        self._num_experts = experts.num_experts * ep_mesh.size()
        self._comm = _communicator(ep_mesh.get_group(), ep_mesh.device_type)

    def __call__(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Returns the weighted sum of each token's experts, [T, H]; collective.

        Args:
            hidden_states: [T, H].
            top_k_index: [T, K], each in [0, E).
            top_k_weights: [T, K].
        """
        shape = hidden_states.shape
        y_TH = run_experts(
            self._experts,
            *(self._own_part(t) for t in (hidden_states, top_k_index, top_k_weights)),
            num_experts=self._num_experts,
            spec=spec_of(self._experts),
            comm=self._comm,
        )
        return self._joined(y_TH, shape)

    def _own_part(self, tensor: torch.Tensor) -> torch.Tensor:
        """Returns this rank's tokens of a batch that the tensor-parallel group shares."""
        if self.tp_mesh.size() == 1:
            return tensor
        shared = DTensor.from_local(tensor, self.tp_mesh, [Replicate()], run_check=False)
        return shared.redistribute(self.tp_mesh, [Shard(0)]).to_local()

    def _joined(self, y_TH: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        """Returns the results of all tokens of the group; `y_TH` has this rank's."""
        if self.tp_mesh.size() == 1:
            return y_TH
        part = DTensor.from_local(
            y_TH, self.tp_mesh, [Shard(0)], run_check=False, shape=shape, stride=(shape[1], 1)
        )
        return part.full_tensor()


@functools.cache
def _communicator(ep_group: dist.ProcessGroup, device_type: str) -> Communicator:
    """Creates the communicator of a group; once, for all layers.

    It has its own process group, so that its exchanges do not mix with others of the ranks.
    """
    if device_type == "cuda":
        raise UnsupportedError(
            'ep_implementation="autoep" shares experts between CPUs only, and the model is on GPUs;'
            " use autoep.initialize for ranks on GPUs"
        )
    world = join_world(DEFAULT_TIMEOUT)
    share_cores(world, None)
    ranks = dist.get_process_group_ranks(ep_group)
    own_group = dist.new_group(ranks, backend="gloo", use_local_synchronization=True)
    link = Link(torch.device(device_type), DEFAULT_TIMEOUT, "slots")
    comm = make_communicator(world, own_group, link)
    release_at_exit(functools.partial(_release, comm, own_group))
    return comm


def _release(comm: Communicator, own_group: dist.ProcessGroup) -> None:
    comm.close()
    _communicator.cache_clear()
    end_groups(own_group)
