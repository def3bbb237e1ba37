"""Trains a HuggingFace MoE model on English text, with its experts sharded over the ranks.

The text is the documentation that comes with every Python (`pydoc_data`), as bytes; the weights
start random. A run writes its losses, speed, memory and expert load to a JSON file.

    python train_hf.py --ranks 2                   # starts its own 2 ranks with mpirun
    mpirun -n 2 python train_hf.py                 # the same
    torchrun --nproc_per_node 2 train_hf.py        # the same, over torch.distributed
    python train_hf.py --plain                     # the same training without AutoEP
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data import topics

import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM

import autoep

HERE = Path(__file__).parent
FAMILIES = ("mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3")
SEQUENCE = 256
SMALL = dict(
    vocab_size=256,
    hidden_size=256,
    intermediate_size=512,
    moe_intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=8,
    num_local_experts=8,
    num_experts=8,
    num_experts_per_tok=2,
    n_group=2,
    topk_group=1,
    max_position_embeddings=SEQUENCE,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def main() -> None:
    """Runs one training, on ranks that it starts if asked."""
    args = parse_args()
    if args.ranks > 1 and not launched():
        sys.exit(launch(args.ranks))
    report = train_plain(args) if args.plain else train(args)
    if report is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report))


def train(args: argparse.Namespace) -> dict | None:
    """Trains with expert parallelism; rank 0 returns the report."""
    before = peak_memory()
    model = build_model(args.model)
    engine, _, _, _ = autoep.initialize(model=model, config=str(args.config))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)

    losses, loads, started = [], [], time.perf_counter()
    for batch in progress(args, "autoep", show=rank == 0):
        mine = batch[rank::world]
        loss = engine(input_ids=mine, labels=mine).loss
        engine.backward(loss)
        engine.step()
        losses.append(mean_over_ranks(loss.detach()))
        loads.append(engine.expert_load().sum(0).tolist())
    seconds = time.perf_counter() - started

    peaks = gather(peak_memory()), gather(peak_memory() - before)
    return make_report(args, losses, seconds, peaks, loads) if rank == 0 else None


def train_plain(args: argparse.Namespace) -> dict:
    """Trains the same model with HuggingFace and PyTorch only, in this process."""
    before = peak_memory()
    model = build_model(args.model)
    config = json.loads(args.config.read_text())
    chosen, schedule = config["optimizer"], config["scheduler"]
    optimizer = getattr(torch.optim, chosen["type"])(model.parameters(), **chosen["params"])
    scheduler = getattr(torch.optim.lr_scheduler, schedule["type"])(optimizer, **schedule["params"])

    losses, started = [], time.perf_counter()
    for batch in progress(args, "plain HF", show=True):
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config["gradient_clipping"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    seconds = time.perf_counter() - started
    return make_report(args, losses, seconds, ([peak_memory()], [peak_memory() - before]), [])


def build_model(name: str) -> torch.nn.Module:
    """Builds a model with random weights: a small one of a family, or of a config's own size."""
    torch.manual_seed(0)
    if name in FAMILIES:
        config = AutoConfig.for_model(name, **SMALL)
    else:
        config = AutoConfig.from_pretrained(name)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def batches(steps: int, size: int):
    """Yields `steps` batches [size, SEQUENCE] of bytes, the same on every rank."""
    text = "\n".join(topics.topics.values()).encode("latin-1", "replace")
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(data) - SEQUENCE, (size,), generator=generator)
        yield torch.stack([data[start : start + SEQUENCE] for start in starts])


def progress(args: argparse.Namespace, name: str, show: bool):
    """Returns the batches, with a progress bar on one rank."""
    return tqdm(
        batches(args.steps, args.batch),
        name,
        args.steps,
        unit="step",
        disable=not show,
        dynamic_ncols=True,
    )


def mean_over_ranks(value: torch.Tensor) -> float:
    """Returns the mean of a number over the ranks."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value.item()


def gather(value: float) -> list[float]:
    """Returns a number of every rank, on all ranks."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def peak_memory() -> float:
    """Returns the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def make_report(args, losses, seconds, peaks, loads) -> dict:
    """Returns the report of a run."""
    return {
        "losses": losses,
        "tokens_per_second": args.steps * args.batch * SEQUENCE / seconds,
        "peak_memory_mib": peaks[0],
        "training_memory_mib": peaks[1],
        "expert_load": loads,
        "versions": {"torch": torch.__version__, "autoep": autoep.__version__},
    }


def launched() -> bool:
    """Whether mpirun or torchrun started this process."""
    return "OMPI_COMM_WORLD_RANK" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ


def launch(ranks: int) -> int:
    """Runs this script again under mpirun."""
    command = ["mpirun", "-n", str(ranks), "--oversubscribe"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    return subprocess.call([*command, sys.executable, *sys.argv])


def parse_args() -> argparse.Namespace:
    """Parses the command line; the batch size is the config's, if it has one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="mixtral", help=f"{', '.join(FAMILIES)}, or the folder of a config"
    )
    parser.add_argument("--config", type=Path, default=HERE / "ds_config.json")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=1, help="ranks to start with mpirun")
    parser.add_argument("--plain", action="store_true", help="train without AutoEP")
    parser.add_argument("--out", type=Path, default=Path(".demo/run.json"), help="the report")
    args = parser.parse_args()
    args.batch = json.loads(args.config.read_text()).get("train_batch_size", 8)
    return args


if __name__ == "__main__":
    main()
