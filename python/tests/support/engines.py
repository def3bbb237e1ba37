"""Engines of tiny models, and their training."""

from __future__ import annotations

import autoep
from autoep.training.engine import Engine
from support import models
from support.cases import Ranks

BF16 = [False, True]
ADAMW = {"type": "AdamW", "params": {"lr": 1e-2, "weight_decay": 0.1}}


def start(model, ep_size: int | None = None, **config) -> Engine:
    config.setdefault("expert_parallel", {})["autoep_size"] = ep_size or "auto"
    config["expert_parallel"]["timeout"] = 60.0
    return autoep.initialize(model=model, config=config)[0]


def train(engine: Engine, ranks: Ranks, steps: range, **options) -> list[float]:
    """Trains, and returns this rank's losses."""
    losses = []
    accumulation = engine.gradient_accumulation_steps()
    for step in steps:
        for of_ranks in models.micro_batches(step, accumulation, ranks.size):
            batch = {name: own.to(engine.device) for name, own in of_ranks[ranks.rank].items()}
            loss = engine(**batch, **options).loss
            losses.append(loss.item())
            engine.backward(loss)
            engine.step()
    return losses


def full(
    ranks: Ranks, bf16: bool, ep_size: int | None = None, optimizer: dict = ADAMW, **changes
) -> Engine:
    """Builds an engine with every component that a run may have."""
    return start(
        models.tiny("mixtral", attention_dropout=0.1, **changes),
        ep_size,
        optimizer=optimizer,
        scheduler={"type": "WarmupLR", "params": {"warmup_max_lr": 0.01, "warmup_num_steps": 3}},
        bf16={"enabled": bf16},
        gradient_accumulation_steps=2,
        gradient_clipping=0.5,
    )
