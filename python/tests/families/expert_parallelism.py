"""Families in transformers' own expert parallelism: `expert_parallelism.py FOLDER MODEL_TYPE...`.

Runs on each of two ranks; outputs and gradients are compared with those of one process.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from support.compare import assert_close
from support.families import parity, tiny
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

import autoep  # noqa: F401


def check(model_type: str, path: Path, rank: int) -> None:
    model = tiny.tiny_model(model_type).float()
    if rank == 0:
        model.save_pretrained(path)
    dist.barrier()
    load = type(model).from_pretrained

    plain = load(path, dtype=torch.float32, experts_implementation="eager").train()
    expected = [parity.forward(plain, model_type, of_rank) for of_rank in range(2)]
    (sum(outcome.loss() for outcome in expected) / 2).backward()

    layout = DistributedConfig(fsdp_size=2, ep_size=2, ep_implementation="autoep")
    spread = load(path, dtype=torch.float32, distributed_config=layout).train()
    found = parity.forward(spread, model_type, rank)
    found.loss().backward()

    assert_close(found.compared(), expected[rank].compared())
    theirs = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    mine = dict(spread.named_parameters())
    assert_close([whole(mine[name].grad) for name in theirs], list(theirs.values()))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for model_type in sys.argv[2:]:
        check(model_type, Path(sys.argv[1]) / model_type, dist.get_rank())
        print(f"rank {dist.get_rank()}: {model_type} passed", flush=True)
    dist.destroy_process_group()
