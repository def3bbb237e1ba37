"""Run by test_cuda_push.py on both ranks of a launch: layers of ranks that share GPU 0.

The GPU runs the ranks by turns of some milliseconds. Rows travel as between several GPUs.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as dist
from random_layer import LayerShape, RandomLayer, random_layer
from support import reference
from support.compare import assert_all_same_bits, assert_as_good
from support.passes import rank_part

from autoep import functional
from autoep.distributed.communicator import Communicator

EXPERTS, K = 7, 3
SPLITS = [[300, 41], [300, 0]]


def given(results: list[torch.Tensor | None]) -> list[torch.Tensor]:
    """Leaves out the gradients of biases, which this layer does not have."""
    return [result for result in results if result is not None]


def on_gpu(layer: RandomLayer) -> RandomLayer:
    moved = layer.map(lambda tensor: tensor.cuda())
    return dataclasses.replace(moved, topk_idx=layer.topk_idx.cuda())


def check_experts(comm: Communicator, dispatch: str, dtype: torch.dtype, splits: list[int]) -> None:
    """Compares this rank's results with plain torch, and a rerun bit for bit."""
    shape = LayerShape(sum(splits), K, EXPERTS, 64, 48)
    layer = random_layer(shape, dtype, without_expert=4)
    part = rank_part(layer, comm, splits)
    runs = [
        given(on_gpu(part).run(functional.experts, comm=comm, num_experts=EXPERTS))
        for _ in range(2)
    ]
    assert_all_same_bits(*runs)
    start = sum(splits[: comm.rank])
    first, count = functional.expert_range(EXPERTS, comm.size, comm.rank)
    places = [slice(start, start + splits[comm.rank])] * 3 + [slice(first, first + count)] * 4
    exact, plain = (
        [whole[place] for whole, place in zip(results, places, strict=False) if whole is not None]
        for results in (
            layer.double().run(reference.experts),
            layer.clone().run(reference.experts),
        )
    )
    if dtype == torch.float32:
        assert_as_good(runs[0], plain, exact)
    else:
        for a, e in zip(runs[0], exact, strict=True):
            assert (a.double().cpu() - e).norm() <= 2**-6 * max(e.norm(), 1), dispatch


def main() -> None:
    dist.init_process_group("gloo")
    control = Communicator.torch(timeout=60.0)
    torch.cuda.set_device(0)
    for dispatch in ("slots", "tokens"):
        comm = Communicator.push(control, 0, 60.0)
        comm.dispatch = dispatch
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            for splits in SPLITS:
                check_experts(comm, dispatch, dtype, splits)
        comm.close()
    dist.barrier()
    print(f"rank {dist.get_rank()} of {dist.get_world_size()} passed")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
