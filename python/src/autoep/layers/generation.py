"""`generate` with experts on several ranks: a rank that has finished keeps serving the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from autoep.layers.replaced_method import ReplacedMethod

Exchange = Callable[[], Any]


class GenerationSteps:
    """Keeps the forwards of `generate` in step across ranks; collective.

    A forward needs all ranks, because each holds some of the experts, but ranks may need
    different numbers of forwards. A rank announces each forward before it starts. A rank that has
    finished waits for announcements, and for each one it joins the exchanges of the layers,
    without tokens.
    """

    def __init__(self, ep_mesh: DeviceMesh) -> None:
        self._ep_mesh = ep_mesh
        self._is_generating = False
        # The exchanges of this rank's last forward: every forward of `generate` has the same ones.
        self._exchanges: list[Exchange] = []

    def __deepcopy__(self, copied: dict[int, Any]) -> GenerationSteps:
        """Returns those of a copy of the model, over the same ranks."""
        copied[id(self)] = twin = GenerationSteps(self._ep_mesh)
        return twin

    def note(self, compute: Callable[..., Any], *routed: torch.Tensor) -> None:
        """Records a layer's exchange in the current forward.

        Args:
            compute: The exchange, a function of tokens [..., H] and their choices [T, K].
            *routed: Its arguments in this call.
        """
        if self._is_generating:
            nobodys = [tensor.new_empty(0, tensor.shape[-1]) for tensor in routed]
            self._exchanges.append(partial(compute, *nobodys))

    @contextmanager
    def announced(self, model: nn.Module) -> Iterator[None]:
        """Announces each forward of the model in the context; at its end, joins the others'."""
        hook = model.register_forward_pre_hook(lambda *_: self._begin_forward())
        self._is_generating = True
        try:
            yield
            hook.remove()
            self._is_generating = False
            self._join_others()
        finally:
            hook.remove()
            self._is_generating = False
            self._exchanges = []

    @property
    def is_generating(self) -> bool:
        """Whether forwards are already being announced."""
        return self._is_generating

    def _begin_forward(self) -> None:
        self._any_rank(True)
        self._exchanges = []

    @torch.no_grad()
    def _join_others(self) -> None:
        while self._any_rank(False):
            for exchange in self._exchanges:
                exchange()

    def _any_rank(self, is_active: bool) -> bool:
        """Whether a rank that shares the experts is about to run a forward; collective."""
        anyone = torch.tensor(int(is_active))
        dist.all_reduce(anyone, op=dist.ReduceOp.MAX, group=self._ep_mesh.get_group())
        return bool(anyone)


class GenerateInStep(ReplacedMethod):
    """Replaces a model's `generate`: the same tokens, but the ranks finish together."""

    def __init__(self, model: nn.Module, steps: GenerationSteps) -> None:
        self._model = model
        self._own_generate = model.generate
        self._steps = steps

    def __call__(self, *args: Any, synced_gpus: bool | None = None, **kwargs: Any) -> Any:
        """Returns the result of the model's own, once every rank has finished; collective.

        Args:
            *args: As for the model's own.
            synced_gpus: Ignored, as the ranks are kept in step anyway. transformers' own method
                repeats a finished rank's last forward, for which its cache may be full.
            **kwargs: As for the model's own.
        """
        if self._steps.is_generating:
            return self._own_generate(*args, **kwargs)
        with self._steps.announced(self._model):
            return self._own_generate(*args, **kwargs)


def keep_generate_in_step(model: nn.Module, ep_mesh: DeviceMesh) -> GenerationSteps:
    """Makes the model's `generate` continue until every rank has finished its sequences.

    Args:
        model: The model.
        ep_mesh: The ranks that share its experts.

    Returns:
        The object to which the layers report their exchanges.
    """
    steps = GenerationSteps(ep_mesh)
    generating = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(generating, "generate"):
        generating.generate = GenerateInStep(generating, steps)
    return steps
