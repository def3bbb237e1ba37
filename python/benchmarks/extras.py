"""Further costs of a layer: with more experts, over more ranks, and in memory."""

from __future__ import annotations

import shutil

from cases import Bench, measure_shape
from layers import can_compute
from memory import peak_extra_bytes_in_a_process
from options import tokens_for
from passes import Case
from ranks import times_over_ranks
from shapes import Shape
from turns import rows_over_ranks

# These are measured at the number of tokens closest to this.
_TOKENS = 2048


def measure_expert_counts(bench: Bench, shape: Shape, dtype: str) -> None:
    """Times the layer with other numbers of experts and the same work per token."""
    for experts in bench.options.expert_counts:
        measure_shape(
            bench,
            shape.with_experts(experts),
            dtype,
            tokens=[_some_tokens(bench, shape)],
            routing=["balanced"],
            parts=["expert_counts"],
        )


def measure_ranks(bench: Bench, shape: Shape, dtype: str) -> None:
    """Times the layer on several numbers of ranks, which share the threads."""
    options = bench.options
    if shutil.which("mpirun") is None:
        bench.findings.add_failure("the layer over ranks", "there is no mpirun")
        return
    case = Case(shape, _some_tokens(bench, shape), dtype, "balanced")
    found = {
        ranks: times_over_ranks(case, ranks, options.threads, options.rounds)
        for ranks in options.ranks
    }
    bench.findings.add_ranks(case, rows_over_ranks(case, found))


def measure_memory(bench: Bench, shape: Shape, dtype: str) -> None:
    """Measures the memory of each layer, each in a process of its own."""
    case = Case(shape, _some_tokens(bench, shape), dtype, "balanced")
    taken = {
        name: peak_extra_bytes_in_a_process(name, case, bench.options.threads)
        for name in bench.options.layers
        if can_compute(name, dtype)
    }
    bench.findings.add_memory(case, taken)


def _some_tokens(bench: Bench, shape: Shape) -> int:
    return min(tokens_for(bench.options, shape), key=lambda tokens: abs(tokens - _TOKENS))
