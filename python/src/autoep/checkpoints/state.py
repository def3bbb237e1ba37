"""The state of a training run: the contents of a checkpoint, and the engine's working data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autoep.config.training import BatchSizes
from autoep.distributed.groups import ExpertGroups
from autoep.distributed.launch import World
from autoep.layers.parameters import ParameterTable


class Loader(Protocol):
    """A loader of training data.

    Attributes:
        epoch: The number of the next epoch, from 0.
    """

    epoch: int


@dataclass
class TrainState:
    """A training run between two micro-batches.

    Attributes:
        model: The model, with this rank's shard of the experts.
        device: The device that this rank computes on.
        parameter_table: The model's parameters.
        optimizer: The optimizer, or None.
        lr_scheduler: The scheduler of its learning rates, or None.
        loader: This rank's batches, or None.
        batch_sizes: The samples and micro-batches per step.
        world: All ranks.
        groups: The ranks that share experts, and those that hold the same experts.
        global_steps: The number of optimizer steps so far.
        micro_steps: The number of micro-batches so far.
    """

    model: nn.Module
    device: torch.device
    parameter_table: ParameterTable
    optimizer: Optimizer | None
    lr_scheduler: LRScheduler | None
    loader: Loader | None
    batch_sizes: BatchSizes
    world: World
    groups: ExpertGroups
    global_steps: int = 0
    micro_steps: int = 0

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Returns the optimizer's parameter groups; none without an optimizer."""
        return [] if self.optimizer is None else self.optimizer.param_groups

    def optimizer_state_of(self, master: nn.Parameter) -> dict[str, Any]:
        """Returns the optimizer's state of a parameter; empty before its first step."""
        return {} if self.optimizer is None else self.optimizer.state.get(master, {})
