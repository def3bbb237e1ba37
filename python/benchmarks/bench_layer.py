"""One MoE layer: this engine, its peers and the machine's ceiling, in one run.

    python python/benchmarks/bench_layer.py --shapes mixtral_block --tokens 512 2048
    python python/benchmarks/bench_layer.py --device cuda --shapes olmoe_1b_7b --tokens 4096

Each case builds all layers and times them in turns: medians, on a GPU by events around the calls.
Rates count 6*T*K*H*F operations forward and three times that for forward and backward. The parts:

    layer          router and experts
    experts        the experts alone
    products       the grouped GEMM alone, and its gradients
    expert_counts  the layer over more and fewer experts, with the same work per token
    ranks          the layer on one rank and on several, under mpirun
    memory         the peak of a forward and backward above the memory in use before
"""

from __future__ import annotations

import argparse

import openblas
import torch
from cases import Bench, measure_shape
from ceiling import ceiling_of
from extras import measure_expert_counts, measure_memory, measure_ranks
from findings import Findings
from first_call import first_calls
from options import parse, tokens_for

from autoep import functional


def main(arguments: list[str] | None = None) -> None:
    """Measures what the command line selects."""
    options = parse(__doc__, arguments)
    set_threads(options.threads)
    ceiling = ceiling_of(options.device, options.threads)
    bench = Bench(options, ceiling, Findings(options, ceiling))
    if options.device == "cuda" and not options.no_first_call:
        measure_first_calls(bench)
    measure_cases(options, bench)
    for dtype in options.dtypes:
        if "expert_counts" in options.parts:
            measure_expert_counts(bench, options.shapes[-1], dtype)
        for shape in options.shapes:
            if "ranks" in options.parts:
                measure_ranks(bench, shape, dtype)
            if "memory" in options.parts and options.device == "cpu":
                measure_memory(bench, shape, dtype)


def set_threads(threads: int) -> None:
    """Sets the number of threads of the engine and its peers."""
    torch.set_num_threads(threads)
    functional.set_num_threads(threads)
    if openblas.is_installed():
        openblas.set_num_threads(threads)


def measure_first_calls(bench: Bench) -> None:
    """Measures the first pass of a process, for which a GPU's user waits."""
    shape = bench.options.shapes[0]
    tokens = tokens_for(bench.options, shape)[0]
    bench.findings.add_first_calls(first_calls(shape, tokens))


def measure_cases(options: argparse.Namespace, bench: Bench) -> None:
    """Measures the parts that are timed in turns, for each shape and dtype."""
    parts = [part for part in options.parts if part in ("layer", "experts", "products")]
    if not parts:
        return
    for shape in options.shapes:
        for dtype in options.dtypes:
            tokens = tokens_for(options, shape)
            measure_shape(bench, shape, dtype, tokens=tokens, routing=options.routing, parts=parts)


if __name__ == "__main__":
    main()
