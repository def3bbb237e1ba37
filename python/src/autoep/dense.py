"""Data parallelism of everything but the experts: torch's DDP.

Annotations are not postponed in this file: DDP reads those of its hook.
"""

import gc
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import GradBucket
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from autoep.precision import Masters


class DenseParallel:
    """Runs a model so that the gradients of its plain parameters are averaged over all ranks."""

    def __init__(self, model: nn.Module, masters: Masters) -> None:
        self._model = model
        self._masters = masters
        self._trained = [
            p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)
        ]
        self._ddp: DistributedDataParallel | None = None

    def forward(self, reduces: bool, *args: Any, **kwargs: Any) -> Any:
        """Runs the model's forward.

        Args:
            reduces: Whether the backward of this forward ends an accumulation.
            *args: To the model.
            **kwargs: To the model.
        """
        if self._ddp is None:
            self._ddp = self._wrap()
        with nullcontext() if reduces else self._ddp.no_sync():
            return self._ddp(*args, **kwargs)

    def reach_all(self, loss: torch.Tensor) -> torch.Tensor:
        """Returns the loss such that its backward comes by every parameter, used or not.

        DDP waits for each one's gradient. A model may leave some unused on one rank or in one
        step, which then count as zero. Reentrant checkpoints hide their parameters from the graph
        and reach them by themselves.
        """
        return loss if _recomputes_reentrantly(self._model) else _Reach.apply(loss, *self._trained)

    def restart(self) -> None:
        """Begins anew at the next forward, as a run does that goes on from a checkpoint.

        DDP orders its buckets anew after its first step, and with them the order of its sums.
        """
        self._ddp = None
        gc.collect()  # its hooks on the parameters end with it

    def _wrap(self) -> DistributedDataParallel:
        ignored = [name for name, p in self._model.named_parameters() if isinstance(p, DTensor)]
        ignored += [name for name, _ in self._model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self._model, ignored)
        ddp = DistributedDataParallel(self._model, init_sync=False)
        ddp.register_comm_hook(self._masters, _average)
        return ddp


def has_trained_dense(model: nn.Module) -> bool:
    """Whether the model has plain parameters to train, without which there is nothing for DDP."""
    return any(p.requires_grad and not isinstance(p, DTensor) for p in model.parameters())


class _Reach(torch.autograd.Function):
    """The identity on a loss, with an edge to each parameter that carries no gradient."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, *parameters: nn.Parameter) -> torch.Tensor:
        ctx.count = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad, *[None] * ctx.count


def _average(masters: Masters, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DDP's hook: averages a bucket over all ranks, in float32 where there are masters."""
    parameters = bucket.parameters()
    if not masters.has(parameters[0]):
        return _all_reduce_mean(bucket.buffer())
    sums = bucket.buffer().float()
    views = sums.split([parameter.numel() for parameter in parameters])
    for parameter, view in zip(parameters, views, strict=True):
        earlier = masters.of(parameter).grad
        if earlier is not None:
            view.add_(earlier.view(-1))

    def keep(_: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
        for parameter, view in zip(parameters, views, strict=True):
            masters.of(parameter).grad = view.view_as(parameter)
        return bucket.buffer()

    return _all_reduce_mean(sums).then(keep)


def _all_reduce_mean(tensor: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    tensor.div_(dist.get_world_size())
    future = dist.all_reduce(tensor, async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def _recomputes_reentrantly(model: nn.Module) -> bool:
    """Whether transformers was told to recompute activations with reentrant checkpoints."""
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            how = getattr(module, "_gradient_checkpointing_func", None)
            return getattr(how, "keywords", {}).get("use_reentrant", True)
    return False
