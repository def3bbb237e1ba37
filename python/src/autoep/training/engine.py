"""The training engine: forward, backward, step."""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
import torch.distributed as dist

from autoep.checkpoints.load import load
from autoep.checkpoints.save import save
from autoep.checkpoints.state import TrainState
from autoep.config.training import Config
from autoep.errors import Error
from autoep.layers.replace import ExpertLoad
from autoep.layers.token_masks import token_masks
from autoep.routers.balance import BiasBalancer
from autoep.training.gradients import Gradients


def _in_state(name: str) -> property:
    """Makes an engine attribute that is stored in its `TrainState`, and so in checkpoints."""
    return property(
        lambda engine: getattr(engine.state, name),
        lambda engine, value: setattr(engine.state, name, value),
    )


class Engine:
    """Trains a model whose experts are sharded over the ranks. Created by `autoep.initialize`.

    Every rank must make the same calls in the same order.

    Attributes:
        module: The model, with this rank's shard of the experts.
        device: The device that this rank computes on.
        config: The configuration.
        state: The state of the run, which checkpoints save and restore.
        optimizer: The optimizer, or None.
        lr_scheduler: The scheduler of its learning rates, or None.
        training_dataloader: This rank's batches, or None.
        groups: The ranks that share experts, and those that hold the same experts.
        parameter_table: The model's parameters, with the float32 masters of a bf16 run.
        global_rank: This rank.
        world_size: The number of ranks.
        local_rank: The index of this rank on its host.
        global_steps: The number of optimizer steps so far.
        micro_steps: The number of micro-batches so far.
        training: Whether the model is in training mode.
    """

    module = _in_state("model")
    optimizer = _in_state("optimizer")
    lr_scheduler = _in_state("lr_scheduler")
    training_dataloader = _in_state("loader")
    global_steps = _in_state("global_steps")
    micro_steps = _in_state("micro_steps")

    def __init__(
        self, state: TrainState, config: Config, load: ExpertLoad, balancer: BiasBalancer | None
    ) -> None:
        self.state = state
        self.device = state.device
        self.config = config
        self.groups = state.groups
        self.parameter_table = state.parameter_table
        self.global_rank, self.world_size, self.local_rank, _ = state.world
        self._batch_sizes = state.batch_sizes
        self._gradients = Gradients(
            state.model, state.parameter_table, state.groups, state.world.size
        )
        self._load = load
        self._balancer = balancer
        self._global_norm: float | None = None
        self._went_backward = False
        self._reduced = False
        # `from_pretrained` returns a model in evaluation mode, which many scripts train as it is.
        self._trains_in_eval_mode = not state.model.training

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model's forward; collective."""
        if not (torch.is_grad_enabled() and (self.module.training or self._trains_in_eval_mode)):
            return self.module(*args, **kwargs)
        with self._load.counted(token_masks(self.module, args, kwargs)):
            return self.module(*args, **kwargs)

    def backward(self, loss: torch.Tensor) -> torch.Tensor:
        """Adds the gradients of one micro-batch; collective.

        Args:
            loss: A scalar, the mean over this rank's micro-batch. It is divided by the number of
                micro-batches per step.

        Returns:
            The loss.
        """
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            given = list(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise Error(f"engine.backward: given {given}; expected a loss, a tensor of one element")
        if self._reduced:
            raise Error("engine.backward comes before engine.reduce_gradients, not after it")
        (loss / self._batch_sizes.accumulation).backward()
        self._gradients.accumulate()
        self._went_backward = True
        return loss

    def reduce_gradients(self) -> None:
        """Averages the gradients of a step over the ranks, for scripts that read them; collective.

        `step` calls it. Before that, each rank has the sum over its own backward passes only.
        """
        if not self._reduced:
            self._gradients.reduce()
            self._reduced = True

    def step(self) -> None:
        """Ends a micro-batch, and steps the optimizer after the last one of a step; collective."""
        if not self._went_backward:
            raise Error("engine.step() comes after engine.backward(loss), once for each")
        self._went_backward = False
        if self.is_gradient_accumulation_boundary():
            self._step_optimizer()
        self.micro_steps += 1

    def train(self, mode: bool = True) -> Engine:
        """Sets the model to training mode, or to evaluation mode."""
        self._trains_in_eval_mode = False
        self.module.train(mode)
        return self

    def eval(self) -> Engine:
        """Sets the model to evaluation mode."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether the model is in training mode."""
        return self.module.training

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the model's `generate` on all ranks until every rank has finished; collective."""
        return self.module.generate(*args, **kwargs)

    def is_gradient_accumulation_boundary(self) -> bool:
        """Returns whether the current micro-batch is the last one of a step."""
        return (self.micro_steps + 1) % self._batch_sizes.accumulation == 0

    def get_global_grad_norm(self) -> float | None:
        """Returns the gradient norm of the last step, before clipping; None before any step."""
        return self._global_norm

    def get_lr(self) -> list[float]:
        """Returns the learning rate of each parameter group."""
        return [] if self.optimizer is None else [g["lr"] for g in self.optimizer.param_groups]

    def train_batch_size(self) -> int:
        """Returns the number of samples per step, over all ranks."""
        return self._batch_sizes.train

    def train_micro_batch_size_per_gpu(self) -> int:
        """Returns the number of samples per micro-batch of one rank."""
        return self._batch_sizes.micro

    def gradient_accumulation_steps(self) -> int:
        """Returns the number of micro-batches per step."""
        return self._batch_sizes.accumulation

    def expert_load(self) -> torch.Tensor:
        """Returns the tokens per expert in the last step; collective.

        Only forwards with gradients count, in training mode or before `train` and `eval` were
        called, and without the tokens that the model's `attention_mask` [B, L] marks as padding.

        Returns:
            [layers, E], over all ranks and micro-batches; each token counts K times. A layer with
            fewer experts than others has zeros at the end.
        """
        load = self._load.last.clone()
        if self.world_size > 1:
            dist.all_reduce(load)
        return load

    def save_checkpoint(
        self,
        save_dir: str | PathLike[str],
        tag: str | None = None,
        client_state: dict[str, Any] | None = None,
    ) -> bool:
        """Writes a checkpoint of the run, and names it in the file `latest`; collective.

        If writing fails, the previous checkpoint is left as it was.

        Args:
            save_dir: A folder that all ranks can access.
            tag: The checkpoint's name; `global_step<N>` if None.
            client_state: Data of the script, which `load_checkpoint` returns: numbers, strings,
                tensors, and lists, tuples and dicts of them.

        Returns:
            True.
        """
        tag = tag or f"global_step{self.global_steps}"
        save(self.state, save_dir, tag, client_state or {})
        return True

    def load_checkpoint(
        self, load_dir: str | PathLike[str], tag: str | None = None
    ) -> tuple[str | None, dict[str, Any]]:
        """Restores the run from a checkpoint of as many ranks and the same autoep_size; collective.

        Args:
            load_dir: The folder given to `save_checkpoint`.
            tag: The checkpoint's name; the one in the file `latest` if None.

        Returns:
            Its path and the script's data; (None, {}) if the folder has no checkpoint.
        """
        path, client_state = load(self.state, load_dir, tag)
        if path is not None:
            self._forget_unfinished_step()
        return path, client_state

    def _forget_unfinished_step(self) -> None:
        """Drops the gradients and counts of micro-batches whose step has not ended."""
        self._gradients.clear()
        self._load.forget()
        self._went_backward = self._reduced = False

    def _step_optimizer(self) -> None:
        if self.optimizer is None:
            raise Error("there is no optimizer: name one in the configuration, or pass one")
        self.reduce_gradients()
        self._global_norm = self._gradients.global_norm()
        # The norm has waited for the device, and so for the exchanges of the backward. After a
        # failed one the parameters stay as they are.
        self.groups.check_health()
        if self.config.gradient_clipping > 0:
            self._gradients.clip(self._global_norm, self.config.gradient_clipping)
        self.optimizer.step()
        self.parameter_table.copy_to_model()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self._gradients.clear()
        self._reduced = False
        self._load.end_step()
        if self._balancer is not None:
            self._balancer.update(self.expert_load())
        self.global_steps += 1
        self._report()

    def _report(self) -> None:
        every = self.config.steps_per_print
        if every is not None and self.global_steps % every == 0 and self.global_rank == 0:
            rates = ", ".join(f"{rate:.3g}" for rate in sorted(set(self.get_lr())))
            norm = f"{self._global_norm:.4g}"
            print(f"autoep: step {self.global_steps}, lr {rates}, grad norm {norm}", flush=True)
