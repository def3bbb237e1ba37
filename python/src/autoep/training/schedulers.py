"""Learning-rate schedulers from the configuration: DeepSpeed's warm-ups, and torch's by name.

The warm-ups count as DeepSpeed's do: the first two steps are at the lowest rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from autoep.config.schema import (
    ABOVE_ZERO,
    AMOUNT,
    AUTO,
    POSITIVE,
    Refusal,
    key,
    one_of,
    read_section,
    wrong_value,
)
from autoep.config.training import SchedulerConfig
from autoep.errors import ConfigError
from autoep.training.optimizers import construct, find_class

_PATH = "scheduler.params"

# Schedulers of torch that a configuration cannot name, each with the reason.
_UNFIT = {
    "LRScheduler": "it is only the base of others",
    "ReduceLROnPlateau": "it wants a metric at each step",
    "SequentialLR": "it is made of other schedulers: pass lr_scheduler to initialize",
    "ChainedScheduler": "it is made of other schedulers: pass lr_scheduler to initialize",
    "LambdaLR": "it wants a function: pass lr_scheduler to initialize",
}

# The fraction of the way from the lowest to the highest rate, after a number of steps.
Ramp = Callable[[int], float]


@dataclass(frozen=True)
class Warmup:
    """The keys that all warm-ups share.

    Attributes:
        warmup_num_steps: Steps to the highest rate; at least 2.
        warmup_type: How the rate rises.
    """

    warmup_num_steps: int = key(1000, POSITIVE)
    warmup_type: str = key("log", one_of("log", "linear"))

    refused: ClassVar[dict[str, Refusal]] = {
        "last_batch_iteration": Refusal("load a checkpoint to continue a run", (-1,))
    }

    def rise(self, step: int) -> float | None:
        """Returns the fraction of the rise that is done at a step; None after the rise."""
        last = max(2, self.warmup_num_steps)
        if step >= last:
            return None
        return math.log(step + 1) / math.log(last) if self.warmup_type == "log" else step / last


@dataclass(frozen=True)
class WarmupLR(Warmup):
    """Rises from warmup_min_lr to warmup_max_lr ("auto": the optimizer's rate), and stays."""

    warmup_min_lr: float = key(0.0, AMOUNT)
    warmup_max_lr: float = key(0.001, ABOVE_ZERO)

    def factor(self, step: int) -> float:
        """Returns the rate at a step, in units of warmup_max_lr."""
        rise = self.rise(step)
        lowest = self.warmup_min_lr / self.warmup_max_lr
        return lowest + (1 - lowest) * (self.after(step) if rise is None else rise)

    def after(self, step: int) -> float:
        """Returns the fraction of the way up at a step after the rise."""
        return 1.0


@dataclass(frozen=True)
class WarmupDecayLR(WarmupLR):
    """Rises like WarmupLR, then falls linearly to warmup_min_lr at total_num_steps."""

    total_num_steps: int | None = key(None, POSITIVE)

    def after(self, step: int) -> float:
        """Returns the fraction of the way up at a step after the rise."""
        fall = max(1, self.total_num_steps - max(2, self.warmup_num_steps))
        return max(0.0, (self.total_num_steps - step) / fall)


@dataclass(frozen=True)
class WarmupCosineLR(Warmup):
    """Rises from warmup_min_ratio of the optimizer's rate, then falls to cos_min_ratio of it."""

    total_num_steps: int | None = key(None, POSITIVE)
    warmup_min_ratio: float = key(0.0, AMOUNT)
    cos_min_ratio: float = key(0.0001, AMOUNT)

    def factor(self, step: int) -> float:
        """Returns the rate at a step, in units of the optimizer's."""
        rise = self.rise(step)
        if rise is not None:
            return self.warmup_min_ratio + (1 - self.warmup_min_ratio) * rise
        first = max(2, self.warmup_num_steps)
        part = (step - first + 1) / max(1, self.total_num_steps - first)
        cosine = (1 + math.cos(math.pi * min(1.0, part))) / 2
        return self.cos_min_ratio + (1 - self.cos_min_ratio) * cosine


_WARMUPS = {kind.__name__.lower(): kind for kind in (WarmupLR, WarmupDecayLR, WarmupCosineLR)}


def build_scheduler(config: SchedulerConfig, optimizer: Optimizer | None) -> LRScheduler | None:
    """Builds the scheduler that the configuration names; returns None if it names none.

    Args:
        config: The section `scheduler`.
        optimizer: The optimizer that it schedules.
    """
    if config.type is None:
        if config.params:
            raise ConfigError('config: scheduler.type: missing; name one, such as "WarmupLR"')
        return None
    if optimizer is None:
        raise ConfigError("config: scheduler: there is no optimizer to schedule; name one")
    warmup = _WARMUPS.get(config.type.lower())
    if warmup is not None:
        return _build_warmup(warmup, config.params, optimizer)
    kind = find_class(
        lr_scheduler, LRScheduler, config.type, "scheduler.type", exclude=_UNFIT, also=_names()
    )
    return construct(kind, optimizer, config.params, _PATH)


def _names() -> list[str]:
    return [kind.__name__ for kind in _WARMUPS.values()]


def _build_warmup(kind: type[Warmup], params: dict[str, Any], optimizer: Optimizer) -> LRScheduler:
    given = dict(params)
    if given.get("warmup_max_lr") == AUTO:
        given["warmup_max_lr"] = optimizer.param_groups[0]["lr"]
    warmup = read_section(kind, given, _PATH)
    if getattr(warmup, "total_num_steps", 0) is None:
        raise wrong_value(
            f"{_PATH}.total_num_steps",
            params.get("total_num_steps"),
            "the number of steps of the whole run; it has no default",
        )
    if isinstance(warmup, WarmupLR):
        for group in optimizer.param_groups:
            group["lr"] = warmup.warmup_max_lr
    return LambdaLR(optimizer, lambda steps: warmup.factor(max(0, steps - 1)))
