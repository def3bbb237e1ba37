"""The cost of ranks: the same tokens and experts on one rank or several of this host.

    mpirun -n 2 python ranks.py SHAPE TOKENS DTYPE ROUTING THREADS ROUNDS

measures them on the ranks it is started on, and prints milliseconds on rank 0.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from layers import EngineParts, randomize
from passes import Case, Passes
from shapes import DTYPES, Shape, shape_named, skew, tokens_of
from torch import Tensor, nn

from autoep import functional
from autoep.distributed.communicator import Communicator


def times_over_ranks(case: Case, ranks: int, threads: int, rounds: int) -> dict[str, list[float]]:
    """Starts ranks that share the threads; returns the milliseconds of each pass.

    Args:
        case: The computation of all ranks together.
        ranks: The number of ranks.
        threads: The number of threads of all ranks together.
        rounds: The number of turns of each pass.
    """
    # Not bound to a core: a rank may have several threads.
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    command += ["-n", str(ranks), sys.executable, __file__, case.shape.name, str(case.tokens)]
    command += [case.dtype, case.routing, str(max(1, threads // ranks)), str(rounds)]
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(child.stdout.splitlines()[-1])


class PartOfLayer(EngineParts):
    """The router, and this rank's experts."""

    def __init__(self, shape: Shape, comm: Communicator) -> None:
        super().__init__(shape)
        self.comm = comm
        _, own = functional.expert_range(shape.experts, comm.size, comm.rank)
        sizes = shape.with_experts(own).layer(tokens=0).sizes()
        self.gate_up = nn.Parameter(torch.empty(sizes["gate_up"]))
        self.down = nn.Parameter(torch.empty(sizes["down"]))

    def experts(self, x_TH: Tensor, topk_idx: Tensor, topk_weights: Tensor) -> Tensor:
        """Maps [T, H] to [T, H]; collective."""
        return functional.experts(
            x_TH,
            topk_idx,
            topk_weights,
            self.gate_up,
            self.down,
            num_experts=self.shape.experts,
            comm=self.comm,
        )


def _times(comm: Communicator, case: Case, rounds: int) -> dict[str, list[float]]:
    """Times this rank's part of the tokens and experts, between barriers."""
    layer = PartOfLayer(case.shape, comm)
    # The router's weights are drawn first, and are the same on all ranks.
    randomize(layer, DTYPES[case.dtype])
    skew(layer.router, case.shape, case.routing == "skewed")
    x = tokens_of(case.shape, case.tokens, DTYPES[case.dtype], "cpu").detach()
    passes = Passes(layer, x[0].chunk(comm.size)[comm.rank].clone().requires_grad_())
    calls = {"forward": passes.forward, "forward+backward": passes.forward_backward}
    return _between_barriers(calls, comm, rounds)


def _between_barriers(
    calls: dict[str, Callable[[], None]], comm: Communicator, rounds: int
) -> dict[str, list[float]]:
    """Returns the milliseconds until the last rank has finished, without the first round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            comm.barrier()
            start = time.perf_counter()
            call()
            comm.barrier()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: found[1:] for name, found in times.items()}


def _main(shape: str, tokens: str, dtype: str, routing: str, threads: str, rounds: str) -> None:
    torch.set_num_threads(int(threads))
    functional.set_num_threads(int(threads))
    comm = Communicator.mpi()
    case = Case(shape_named(shape), int(tokens), dtype, routing)
    found = _times(comm, case, int(rounds))
    if comm.rank == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
