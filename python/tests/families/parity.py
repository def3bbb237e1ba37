"""One step of a tiny model of each family over the ranks, against the same model in one process.

`parity.py FOLDER [MODEL_TYPE...]` runs on every rank, and writes what it found into the folder: for
each model type "works", or why `autoep.initialize` refuses it.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import models
import tiny
import torch
import transformers
from conftest import assert_close
from torch import nn

import autoep
from autoep.launch import World, join_world

WORKS = "works"
TIMEOUT = 60.0
EP_SIZES = (1, 2)


class Outcome(NamedTuple):
    """What a forward returned that is compared: the result, and what the routers left."""

    y: torch.Tensor
    router_logits: list[torch.Tensor]
    aux_loss: torch.Tensor | None

    def loss(self) -> torch.Tensor:
        """A number that depends on all of it; the direction is the same for the same shape."""
        generator = torch.Generator().manual_seed(7)
        direction = torch.randn(self.y.shape, generator=generator).to(self.y.dtype)
        loss = (self.y * direction).mean()
        return loss if self.aux_loss is None else loss + 0.1 * self.aux_loss

    def compared(self) -> list[torch.Tensor]:
        """The tensors, in order."""
        return [self.y, *self.router_logits, *([] if self.aux_loss is None else [self.aux_loss])]


def forward(model: Any, model_type: str, rank: int) -> Outcome:
    """Runs a model on the batch of a rank, with the random numbers of that rank."""
    torch.manual_seed(rank)
    inputs = tiny.inputs(model_type, rank)
    try:
        output = model(**inputs, output_router_logits=True)
    except TypeError:  # it takes no such argument
        output = model(**inputs)
    y = output.get("logits")
    logits = output.get("router_logits") or ()
    return Outcome(
        output.last_hidden_state if y is None else y,
        [one for one in logits if isinstance(one, torch.Tensor)],
        output.get("aux_loss"),
    )


def check(model_type: str, world: World) -> str:
    """Compares a family with itself in one process; returns "works", or why it is refused."""
    model = tiny.tiny_model(model_type)
    plain = copy.deepcopy(model)
    for ep_size in EP_SIZES:
        settings = {"autoep_size": ep_size, "timeout": TIMEOUT}
        try:
            engine, *_ = autoep.initialize(
                model=copy.deepcopy(model), config={"expert_parallel": settings}
            )
        except autoep.ModelError as refusal:
            return str(refusal)
        if ep_size == EP_SIZES[0]:
            expected = step_in_one_process(plain, model_type, world)
        found = forward(engine, model_type, world.rank)
        assert found.y.requires_grad
        engine.backward(found.loss())
        assert_close(found.compared(), expected.compared())
        models.assert_same_gradients(engine, plain)
        del engine
    return WORKS


def step_in_one_process(plain: nn.Module, model_type: str, world: World) -> Outcome:
    """Adds the gradients of the mean of all ranks' losses; returns the outcome of this rank."""
    outcomes = []
    for rank in range(world.size):
        outcomes.append(forward(plain, model_type, rank))
        (outcomes[-1].loss() / world.size).backward()
    return outcomes[world.rank]


def main(folder: Path, model_types: list[str]) -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    world = join_world(TIMEOUT)
    with (folder / f"rank{world.rank}.jsonl").open("w") as results:
        for model_type in model_types or tiny.moe_model_types():
            try:
                result = check(model_type, world)
            except BaseException as failure:
                write(results, model_type, f"failed: {type(failure).__name__}: {failure}")
                if "KEEP_GOING" not in os.environ: raise  # the other rank may be waiting for this one
                continue
            write(results, model_type, result)


def write(results: Any, model_type: str, result: str) -> None:
    results.write(json.dumps({"model_type": model_type, "result": result}) + "\n")
    results.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
