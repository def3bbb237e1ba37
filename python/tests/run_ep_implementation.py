"""Run by test_ep_implementation.py on every rank: `run_ep_implementation.py FOLDER`.

transformers shards a saved model with `ep_implementation="autoep"`; its logits and gradients are
compared with those of the same model in one process.
"""

from __future__ import annotations

import sys
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from support.compare import assert_close
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from autoep.integrations import ep_implementation
from autoep.layers.experts import run_experts

LAYOUTS: dict[int, list[dict[str, int]]] = {
    2: [{"fsdp_size": 2, "ep_size": 2}, {"tp_size": 2, "ep_size": 2}],
    4: [
        {"fsdp_size": 4, "ep_size": 2},
        {"fsdp_size": 2, "tp_size": 2, "ep_size": 4},
        {"fsdp_size": 2, "dp_replicate_size": 2, "ep_size": 2},
    ],
}


# Experts that the engine computes whole, and some whose activation is the module's own.
MODELS = {"whole": "silu", "composed": "mish"}


def check(folder: str, sizes: dict[str, int]) -> None:
    rank = dist.get_rank()
    tp_size = sizes.get("tp_size", 1)
    batches = [batch(seed) for seed in range(dist.get_world_size() // tp_size)]

    plain = AutoModelForCausalLM.from_pretrained(folder, experts_implementation="eager").train()
    outputs = [plain(**of_rank) for of_rank in batches]
    (sum(output.loss for output in outputs) / len(batches)).backward()

    config = DistributedConfig(**sizes, ep_implementation="autoep")
    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=config).train()
    with mock.patch.object(ep_implementation, "run_experts", wraps=run_experts) as calls:
        mine = model(**batches[rank // tp_size])
    assert calls.call_count == model.config.num_hidden_layers
    mine.loss.backward()

    assert_close([whole(mine.logits)], [outputs[rank // tp_size].logits])
    theirs = {name: p.grad for name, p in plain.named_parameters()}
    gradients = {name: whole(p.grad) for name, p in model.named_parameters()}
    assert gradients.keys() == theirs.keys()
    assert_close(list(gradients.values()), list(theirs.values()))


def batch(seed: int) -> dict[str, torch.Tensor]:
    """Batches of different lengths: T differs between the ranks."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(64, (2, 11 - 4 * (seed % 2)), generator=generator)
    return {"input_ids": ids, "labels": ids}


def whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for name in MODELS:
        for sizes in LAYOUTS[dist.get_world_size()]:
            check(f"{sys.argv[1]}/{name}", sizes)
            print(f"rank {dist.get_rank()}: {name} {sizes} passed", flush=True)
    dist.destroy_process_group()
