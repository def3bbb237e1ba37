"""One MoE layer over several GPUs of a host: this engine, its own single rank, and DeepSpeed.

    torchrun --nproc_per_node 2 python/benchmarks/gpu_ranks.py --shapes qwen3_30b_a3b --tokens 8192

Every rank has `--tokens` tokens of its own and a share of the experts. The layers take turns in one
run. A call begins on all ranks at once. Its time, measured by events, is that of the slowest rank;
the table has medians. Rates count 6*T*K*H*F operations per rank for a forward, and three times that
for a forward and backward. Memory is the peak of a call above what was in use before, on rank 0.

    push            each token once per rank, over memory that the GPUs share
    push_slots      a row for each expert of a token, over the same memory
    nccl            each token once per rank, over NCCL
    nccl_slots      a row for each expert of a token, over NCCL
    ep1             the layer on this rank alone, with all experts
    deepspeed       DeepSpeed's AutoEP layer over the same ranks
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from layers import EngineLayer, deepspeed, randomize, router_weight
from measure import median
from passes import Passes
from ranks import PartOfLayer
from shapes import Shape, shape_named, skew, tokens_of
from torch import nn

from autoep.distributed.communicator import Communicator

DTYPE = torch.bfloat16
LAYERS = ("push", "push_slots", "nccl", "nccl_slots", "ep1", "deepspeed")


def communicators(names: list[str]) -> dict[str, Communicator]:
    """Opens a communicator for each of the named layers that runs over one; collective."""
    rank, size = dist.get_rank(), dist.get_world_size()
    found = {}
    for name in names:
        if name.split("_")[0] not in ("push", "nccl"):
            continue
        unique_id = [Communicator.nccl_unique_id() if rank == 0 else None]
        dist.broadcast_object_list(unique_id, src=0)
        comm = Communicator.nccl(unique_id[0], rank, size, torch.cuda.current_device(), 60.0)
        if name.startswith("push"):
            comm = Communicator.push(comm, torch.cuda.current_device(), 60.0)
        comm.dispatch = "slots" if name.endswith("slots") else "tokens"
        found[name] = comm
    return found


def build(name: str, shape: Shape, comms: dict[str, Communicator], routing: str) -> nn.Module:
    """Builds a layer on this rank's GPU."""
    with torch.device("cuda"):
        if name in comms:
            layer: nn.Module = PartOfLayer(shape, comms[name])
        elif name == "ep1":
            layer = EngineLayer(shape)
        else:
            layer = deepspeed(shape, "cuda", dist.get_world_size(), dist.get_rank())
            layer.ep_group = dist.group.WORLD
    randomize(layer, DTYPE)
    skew(router_weight(layer, shape), shape, routing == "skewed")
    return layer


def milliseconds(call: Callable[[], None]) -> float:
    """Returns the time of one call, on the slowest rank; collective."""
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    dist.barrier()
    start.record()
    call()
    end.record()
    end.synchronize()
    found = torch.tensor(start.elapsed_time(end), device="cuda")
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.item()


def peak_mib(call: Callable[[], None]) -> float:
    """Returns the peak of GPU memory in a call above what was in use before, in MiB."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(
    shape: Shape,
    tokens: int,
    routing: str,
    comms: dict[str, Communicator],
    options: argparse.Namespace,
) -> list[dict]:
    """Times the layers of one case, which take turns; collective."""
    x = tokens_of(shape, tokens, DTYPE, "cuda")
    if dist.get_rank() > 0:
        x = x.detach().roll(dist.get_rank(), 1).neg_().requires_grad_()
        x.detach()[..., 0] = 1.0
    layers = {name: build(name, shape, comms, routing) for name in options.layers}
    passes = {name: Passes(layer, x) for name, layer in layers.items()}
    calls = {
        (name, what): getattr(each, what.replace("+", "_"))
        for name, each in passes.items()
        for what in ("forward", "forward+backward")
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for _ in range(options.rounds):
        for key, call in calls.items():
            time.sleep(0.2)
            call()
            call()
            times[key] += [milliseconds(call) for _ in range(options.calls)]
    rows = []
    for (name, what), found in times.items():
        flops = shape.forward_flops(tokens) * (1 if what == "forward" else 3)
        rows.append(
            {
                "shape": shape.name,
                "tokens": tokens,
                "routing": routing,
                "ranks": dist.get_world_size(),
                "layer": name,
                "pass": what,
                "ms": median(found),
                "all_ms": found,
                "tflops": flops / median(found) / 1e9,
                "peak_mib": peak_mib(calls[name, what]),
            }
        )
    return rows


def show(rows: list[dict]) -> None:
    """Prints one case."""
    first = rows[0]
    print(f"{first['shape']}, {first['tokens']} tokens per GPU, {first['routing']}", flush=True)
    for row in rows:
        print(
            f"  {row['layer']:12} {row['pass']:18} {row['ms']:8.3f} ms {row['tflops']:6.0f} TF/s"
            f" {row['peak_mib']:8.0f} MiB",
            flush=True,
        )


def main() -> None:
    """Measures what the command line selects, and writes the rows to a file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="+", type=shape_named, required=True)
    parser.add_argument("--tokens", nargs="+", type=int, default=[8192, 16384])
    parser.add_argument("--routing", nargs="+", default=["balanced"])
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=7)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    comms = communicators(options.layers)
    rows = []
    for shape in options.shapes:
        for tokens in options.tokens:
            for routing in options.routing:
                rows += measure(shape, tokens, routing, comms, options)
                torch.cuda.empty_cache()
                if dist.get_rank() == 0:
                    show(rows[-2 * len(options.layers) :])
    if options.out and dist.get_rank() == 0:
        options.out.write_text(json.dumps(rows, indent=1))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
