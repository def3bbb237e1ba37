"""Runs transformers' own expert parallelism with the engine's dispatch and experts.

transformers shards the weights while it loads them and averages the gradients (FSDP2). The engine
sends each token to its experts and computes them.

    torchrun --nproc_per_node 2 ep_implementation.py                # a small Mixtral
    torchrun --nproc_per_node 2 ep_implementation.py FOLDER_OR_NAME # your own model
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.distributed import DistributedConfig

import autoep  # noqa: F401

SMALL = dict(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_local_experts=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def main(name: str | None) -> None:
    """Trains for five steps, with one batch per rank."""
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    with tempfile.TemporaryDirectory() as folder:
        if name is None:
            name = from_rank_zero(folder)
            if rank == 0:
                torch.manual_seed(0)
                MixtralForCausalLM(MixtralConfig(**SMALL)).save_pretrained(name)
            dist.barrier()
        model = AutoModelForCausalLM.from_pretrained(
            name,
            distributed_config=DistributedConfig(
                fsdp_size=world, ep_size=world, ep_implementation="autoep"
            ),
        )
        dist.barrier()
    experts = next(p for n, p in model.named_parameters() if ".experts." in n)
    print(f"rank {rank}: {tuple(experts.to_local().shape)} of {tuple(experts.shape)}", flush=True)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    torch.manual_seed(rank)
    batch = torch.randint(model.config.get_text_config().vocab_size, (4, 64))
    for step in range(5):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        if rank == 0:
            print(f"step {step}: loss {mean.item() / world:.4f}", flush=True)
    dist.destroy_process_group()


def from_rank_zero(folder: str) -> str:
    """Returns rank 0's path on every rank."""
    chosen = [str(Path(folder) / "model")]
    dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
