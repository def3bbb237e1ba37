"""The parameter table: one row per parameter of a model that is being trained.

A parameter changes before training: experts are stacked, sharded, and rounded to bfloat16. This
table alone records the result; precision, gradients, optimizers and checkpoints read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from autoep.errors import ModelError
from autoep.layers.spec import MoELayer
from autoep.layers.stacking import Origins


@dataclass(eq=False)
class ParameterRow:
    """One parameter.

    Attributes:
        names: The names of the parameter in the model; several if modules are tied.
        given: The caller's parameters from which it was made: itself, or several that were stacked.
        computing: The model's parameter, which forward and backward use.
        master: The parameter that the optimizer steps, whose gradient accumulates over a step: a
            float32 copy of `computing` in a bf16 run, `computing` itself otherwise.
        is_expert: Whether it belongs to the experts of a layer. Each rank of an EP group then holds
            its own shard, and only the ranks of an EDP group hold the same one.
    """

    names: tuple[str, ...]
    given: tuple[nn.Parameter, ...]
    computing: nn.Parameter
    master: nn.Parameter
    is_expert: bool

    @property
    def name(self) -> str:
        """The first name, which checkpoints and errors use."""
        return self.names[0]

    @property
    def mesh(self) -> DeviceMesh | None:
        """The mesh over which the parameter is sharded; None for a plain tensor."""
        return self.computing.device_mesh if isinstance(self.computing, DTensor) else None

    @property
    def placements(self) -> tuple[Placement, ...]:
        """The placement per dimension of `mesh`."""
        return self.computing.placements if isinstance(self.computing, DTensor) else ()


class ParameterTable:
    """The rows of a model's parameters, in the model's order; a tied parameter has one row."""

    def __init__(self, model: nn.Module, layers: Iterable[MoELayer], origins: Origins) -> None:
        """Makes the rows of a model whose experts are stacked but not yet sharded.

        Args:
            model: The model.
            layers: Its MoE layers.
            origins: The caller's parameters from which each stacked one was made.
        """
        self._model = model
        names: dict[nn.Parameter, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(parameter, []).append(name)
        experts = {layer.experts.get_parameter(n) for layer in layers for n in layer.weight_names()}
        self._rows = [
            ParameterRow(tuple(names[p]), origins.get(p, (p,)), p, p, p in experts) for p in names
        ]
        self._row_of = {p: row for row in self._rows for p in (row.computing, *row.given)}

    def __iter__(self) -> Iterator[ParameterRow]:
        """Iterates over the rows."""
        return iter(self._rows)

    def optimizer_parameter_of(self, parameter: nn.Parameter) -> nn.Parameter:
        """Returns the parameter that the optimizer steps for one of the caller's.

        Args:
            parameter: A parameter of the model, now or before `autoep.initialize`.

        Raises:
            ModelError: The model has no such parameter.
        """
        if parameter not in self._row_of:
            raise ModelError(
                f"a parameter of shape {list(parameter.shape)} given for training is not in the"
                " model; take parameters from model.parameters() before autoep.initialize"
            )
        return self._row_of[parameter].master

    def replace(self, row: ParameterRow, computing: nn.Parameter) -> None:
        """Replaces `row.computing` everywhere in the model.

        Args:
            row: The row; the new parameter also becomes its master.
            computing: The new parameter.
        """
        for name in row.names:
            owner, _, attribute = name.rpartition(".")
            setattr(self._model.get_submodule(owner), attribute, computing)
        row.computing = row.master = computing
        self._row_of[computing] = row

    def release_given(self) -> None:
        """Drops the references to the caller's parameters once the optimizer is chosen."""
        for row in self._rows:
            row.given = ()
        self._row_of = {row.computing: row for row in self._rows}

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Rounds the float32 masters into the computing parameters."""
        for row in self._rows:
            if row.master is not row.computing:
                local_shard(row.computing).copy_(local_shard(row.master))


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """Returns this rank's shard of a tensor, differentiably; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
