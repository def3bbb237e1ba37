"""One MoE layer, router and experts: this engine beside its peers, in one run.

    python python/benchmarks/bench_layer.py --device cuda --shapes olmoe_1b_7b --tokens 4096

Each case builds all layers, and times them in turns: medians, on a GPU by events around the calls.
TF/s counts 6*T*K*H*F operations forward and three times that for forward and backward.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from kernel_times import Rates, kernel_times
from layers import DEFAULT_LAYERS, LAYERS, build, router_weight
from measure import Run, at_most, copy_bytes_per_second, median, milliseconds, product_tflops
from report import Row, print_kernels, print_row, write
from shapes import SHAPES, Shape, skew, tokens_of

DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=tuple(SHAPES), default="cuda")
    parser.add_argument("--shapes", nargs="+", help="by name; all of the device's otherwise")
    parser.add_argument("--tokens", nargs="+", type=int, help="those of each shape otherwise")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES))
    parser.add_argument("--routing", nargs="+", choices=("balanced", "skewed"))
    parser.add_argument("--peers", nargs="*", choices=tuple(LAYERS), help="besides autoep")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all layers")
    parser.add_argument("--calls", type=int, default=5, help="of each pass in a turn")
    parser.add_argument("--peer-seconds", type=int, default=180, help="for a first call")
    parser.add_argument("--profile", action="store_true", help="the kernels of a pass")
    parser.add_argument("--no-first-call", action="store_true")
    parser.add_argument("--first-call", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="a folder for JSON and plot")
    options = parser.parse_args(arguments)
    known = {shape.name: shape for shape in SHAPES[options.device]}
    if unknown := set(options.shapes or ()) - known.keys():
        parser.error(f"--shapes: {', '.join(unknown)}; known: {', '.join(known)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; --device cpu works")
    options.shapes = [known[name] for name in options.shapes or known]
    gpu = options.device == "cuda"
    options.dtypes = options.dtypes or (["bf16"] if gpu else ["f32", "bf16"])
    options.routing = options.routing or (["balanced", "skewed"] if gpu else ["balanced"])
    if options.peers is None:
        options.peers = DEFAULT_LAYERS[options.device]
    options.layers = list(dict.fromkeys(("autoep", *options.peers)))
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measures what the command line asks for."""
    options = parse(arguments)
    if options.first_call:
        print(first_call(options.shapes[0], options.tokens[0], options.device))
        return
    result = {"setup": setup(options.device), "rows": [], "failed": [], "kernels": {}}
    print(", ".join(f"{name} {value}" for name, value in result["setup"].items()))
    rates = {dtype: rates_in(dtype, options.device) for dtype in options.dtypes}
    for dtype, rate in rates.items():
        print(
            f"a plain product in {dtype}: {rate.tflops:.4g} TF/s;"
            f" a copy: {rate.bytes_per_second / 1e9:.4g} GB/s"
        )
        result["setup"][f"{dtype}_rates"] = vars(rate)
    if options.device == "cuda" and not options.no_first_call:
        result["first_call_seconds"] = first_calls(options)
    for shape in options.shapes:
        for tokens in options.tokens or shape.tokens:
            for dtype in options.dtypes:
                for row in measure_case(options, shape, tokens, dtype, rates[dtype], result):
                    result["rows"].append(row)
                if options.out is not None:
                    write(options.out, result)


def rates_in(dtype: str, device: str) -> Rates:
    """What the device reaches in this run."""
    return Rates(product_tflops(DTYPES[dtype], device), copy_bytes_per_second(device))


def setup(device: str) -> dict[str, Any]:
    """What was measured, and on what."""
    import transformers

    return {
        "device": torch.cuda.get_device_name()
        if device == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def measure_case(
    options: argparse.Namespace,
    shape: Shape,
    tokens: int,
    dtype: str,
    rates: Rates,
    result: dict[str, Any],
) -> Iterator[Row]:
    """Measures all layers for one number of tokens; yields a row for each."""
    x = tokens_of(shape, tokens, DTYPES[dtype], options.device)
    layers = dict(build_layers(options, shape, dtype, x, result))
    runs = {name: Run(layer, x) for name, layer in layers.items()}
    for routing in options.routing:
        print(f"{shape.name}, {tokens} tokens, {dtype}, {routing}:", flush=True)
        for layer in layers.values():
            skew(router_weight(layer, shape), shape, routing == "skewed")
        times = times_in_turns(runs, options)
        for name, (forward, forward_backward) in times.items():
            row = {
                "shape": shape.name,
                "tokens": tokens,
                "dtype": dtype,
                "routing": routing,
                "layer": name,
                "ceiling_tflops": rates.tflops,
                **rates_of(shape, tokens, median(forward), median(forward_backward), rates),
                "peak_extra_bytes": runs[name].peak_extra_bytes(),
                "rounds": {"forward_ms": forward, "forward_backward_ms": forward_backward},
            }
            print_row(row)
            yield row
        if options.profile and options.device == "cuda":
            kernels = kernel_times(runs["autoep"].forward_backward, shape, tokens, rates)
            print_kernels(kernels)
            case = f"{shape.name} {tokens} {dtype} {routing}"
            result["kernels"][case] = [vars(kernel) for kernel in kernels]


def build_layers(
    options: argparse.Namespace, shape: Shape, dtype: str, x: torch.Tensor, result: dict[str, Any]
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Makes each layer and calls it once; one that cannot is told and left out."""
    for name in options.layers:
        try:
            with at_most(options.peer_seconds):
                layer = build(name, shape, DTYPES[dtype], options.device)
                run = Run(layer, x)
                run.forward_backward()
                run.forward()
                run.drop_gradients()
        except Exception as error:  # whatever a peer raises
            if name == "autoep":
                raise
            text = f"{type(error).__name__}: {str(error)[:200]}"
            print(f"  {name} is left out: {text}", flush=True)
            result["failed"].append({"layer": name, "shape": shape.name, "error": text})
            continue
        yield name, layer


def times_in_turns(
    runs: dict[str, Run], options: argparse.Namespace
) -> dict[str, tuple[list[float], list[float]]]:
    """Milliseconds of forwards, and of forwards with backwards, of each layer."""
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for _ in range(options.rounds):
        for name, run in runs.items():
            for call, found in zip((run.forward, run.forward_backward), times[name], strict=True):
                call()
                found += [milliseconds(call, options.device) for _ in range(options.calls)]
            run.drop_gradients()
    return times


def rates_of(
    shape: Shape, tokens: int, forward: float, forward_backward: float, rates: Rates
) -> dict[str, float]:
    """Times in milliseconds as rates, and the share of the ceiling."""
    flops = shape.forward_flops(tokens)
    both = 3 * flops / forward_backward / 1e9
    return {
        "forward_ms": forward,
        "forward_backward_ms": forward_backward,
        "forward_tflops": flops / forward / 1e9,
        "forward_backward_tflops": both,
        "of_ceiling": both / rates.tflops,
    }


def first_calls(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of the first forward and backward of a process, without a cache and with one."""
    shape = options.shapes[0]
    tokens = (options.tokens or shape.tokens)[0]
    command = [sys.executable, __file__, "--first-call", "--shapes", shape.name]
    command += ["--tokens", str(tokens), "--device", options.device]
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for state in ("without_cache", "with_cache"):
            environment = os.environ | {"AUTOEP_CACHE_DIR": folder}
            child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            seconds[state] = float(child.stdout.split()[-1])
    print(", ".join(f"first call {state}: {value:.2f} s" for state, value in seconds.items()))
    return seconds


def first_call(shape: Shape, tokens: int, device: str) -> float:
    """Seconds of this process's first forward and backward of the engine; torch has begun.

    torch imports much when it first meets a gradient given to `backward`: 2 s on one machine.
    """
    x = tokens_of(shape, tokens, torch.bfloat16, device)
    layer = build("autoep", shape, torch.bfloat16, device)
    product_tflops(torch.bfloat16, device)
    plain = torch.zeros(1, device=device, requires_grad=True) * 1
    plain.backward(torch.ones_like(plain))
    start = time.perf_counter()
    Run(layer, x).forward_backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
