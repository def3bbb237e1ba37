"""Timing the layers of one shape: all are built, called once, and then take turns."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ceiling import Ceiling
from findings import Findings
from kernel_times import Rates, kernel_times
from layers import build, can_compute, router_weight
from measure import at_most, copy_bytes_per_second, product_tflops
from memory import peak_extra_bytes_on_gpu
from passes import Case, Passes, choose, experts_passes, layer_passes
from products import product_passes
from shapes import DTYPES, Shape, skew, tokens_of
from torch import Tensor, nn
from turns import measure_in_turns


class Bench(NamedTuple):
    """The inputs of every measurement: the command line, the ceiling, and the results so far."""

    options: argparse.Namespace
    ceiling: Ceiling
    findings: Findings


def measure_shape(
    bench: Bench,
    shape: Shape,
    dtype: str,
    *,
    tokens: list[int],
    routing: list[str],
    parts: list[str],
) -> None:
    """Times all layers of a shape, for each number of tokens and each routing."""
    layers = _build_layers(bench, shape, dtype)
    for count in tokens:
        x = tokens_of(shape, count, DTYPES[dtype], bench.options.device)
        working = {name: layer for name, layer in layers.items() if _works(bench, name, layer, x)}
        for how in routing:
            for layer in working.values():
                skew(router_weight(layer, shape), shape, how == "skewed")
            _measure_case(bench, Case(shape, count, dtype, how), working, x, parts)


def _measure_case(
    bench: Bench, case: Case, layers: dict[str, nn.Module], x: Tensor, parts: list[str]
) -> None:
    options = bench.options
    passes = []
    for part in ("layer", "expert_counts"):
        if part in parts:
            passes += layer_passes(case, layers, x, part)
    if "experts" in parts:
        passes += experts_passes(case, layers, x, choose(case, layers["autoep"], x))
    if "products" in parts:
        topk_idx, _ = choose(case, layers["autoep"], x)
        passes += product_passes(case, topk_idx, layers["autoep"])
    rows = measure_in_turns(
        case,
        passes,
        bench.ceiling,
        device=options.device,
        rounds=options.rounds,
        calls=options.calls,
        slow_seconds=options.slow_seconds,
        rested=options.rested,
    )
    bench.findings.add_rows(case, rows)
    if options.device == "cuda":
        _measure_on_gpu(bench, case, layers, x)


def _measure_on_gpu(bench: Bench, case: Case, layers: dict[str, nn.Module], x: Tensor) -> None:
    """Measures what torch reports of a GPU within this process."""
    if "memory" in bench.options.parts:
        taken = {name: peak_extra_bytes_on_gpu(Passes(layer, x)) for name, layer in layers.items()}
        bench.findings.add_memory(case, taken)
    if bench.options.profile:
        rates = Rates(product_tflops(DTYPES[case.dtype], "cuda"), copy_bytes_per_second("cuda"))
        call = Passes(layers["autoep"], x).forward_backward
        bench.findings.add_kernels(case, kernel_times(call, case.shape, case.tokens, rates))


def _build_layers(bench: Bench, shape: Shape, dtype: str) -> dict[str, nn.Module]:
    layers = {}
    for name in bench.options.layers:
        if can_compute(name, dtype):
            with _left_out_if_it_fails(bench, name):
                layers[name] = build(name, shape, DTYPES[dtype], bench.options.device)
    return layers


def _works(bench: Bench, name: str, layer: nn.Module, x: Tensor) -> bool:
    """Calls a layer for the first time; returns whether it works."""
    works = False
    with _left_out_if_it_fails(bench, name):
        passes = Passes(layer, x)
        passes.forward_backward()
        passes.forward()
        works = True
    return works


@contextmanager
def _left_out_if_it_fails(bench: Bench, name: str) -> Iterator[None]:
    """Reports a peer that fails or takes too long, and leaves it out."""
    try:
        with at_most(bench.options.peer_seconds):
            yield
    except Exception as error:  # any error of a peer
        if name == "autoep":
            raise
        bench.findings.add_failure(name, f"{type(error).__name__}: {str(error)[:200]}")
