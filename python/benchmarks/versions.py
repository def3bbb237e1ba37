r"""One layer, forward and backward, by several versions of AutoEP that take turns in one run.

    pip install --target /tmp/old ./python   # in a checkout of the one
    pip install --target /tmp/new ./python   # and of the other
    python python/benchmarks/versions.py /tmp/old /tmp/new --device cuda \
        --cases qwen3_30b_a3b:16384 mixtral_8x7b:4096

Each version has a process of its own. A turn is a rest of half a second, two calls that do not
count, and some that do; on a GPU single calls, and then the replays of a captured graph. Rates
count 18*T*K*H*F operations. A line ends with how many times as fast the last version is as the
first: the median over pairs of turns of the ratio of their medians, and its 95 % interval, which
21 rounds make narrow enough to tell 2 %.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from shapes import DTYPES, SHAPES, Shape, skew, tokens_of


def main(arguments: list[str] | None = None) -> None:
    """Runs the comparison, or serves one version to the process that does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="+", type=Path, help="folders that hold a package autoep")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--cases", nargs="+", required=True, type=Case.read, help="SHAPE:TOKENS[:skewed]"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bf16")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each version")
    parser.add_argument("--calls", type=int, default=10, help="in a turn")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options)
    else:
        compare(options)


class Case(NamedTuple):
    """The computation of all versions."""

    text: str
    shape: Shape
    tokens: int
    is_skewed: bool

    @staticmethod
    def read(text: str) -> Case:
        """Parses a case of the command line."""
        name, _, rest = text.partition(":")
        tokens, *routing = rest.split(":")
        known = {shape.name: shape for shapes in SHAPES.values() for shape in shapes}
        if name not in known or not tokens.isdigit() or routing not in ([], ["skewed"]):
            raise argparse.ArgumentTypeError(
                f"{text}: expected SHAPE:TOKENS or SHAPE:TOKENS:skewed; known: {', '.join(known)}"
            )
        return Case(text, known[name], int(tokens), bool(routing))


def compare(options: argparse.Namespace) -> None:
    """Runs the versions in turns, and prints a line per case."""
    processes = [Version(folder, options) for folder in options.versions]
    for number, case in enumerate(options.cases):
        flops, *_ = [process.ask("build", number) for process in processes]
        for mode in ("single", "graph") if options.device == "cuda" else ("single",):
            turns: list[list[float]] = [[] for _ in processes]
            for turn in range(options.rounds):
                order = list(zip(processes, turns, strict=True))
                for process, found in order if turn % 2 == 0 else reversed(order):
                    found.append(statistics.median(process.ask(mode, number)))
            print(f"{case.text} {mode}: {_summary(turns, flops)}", flush=True)


def _summary(turns: list[list[float]], flops: int) -> str:
    """Returns the line of a case, from the milliseconds of each version's turns."""
    middles = [statistics.median(found) for found in turns]
    columns = (f"{middle:.3f} ms {flops / middle / 1e9:.3g} TF/s" for middle in middles)
    ratios = [first / last for first, last in zip(turns[0], turns[-1], strict=True)]
    low, high = median_interval(ratios)
    ratio = f"{statistics.median(ratios):.3f} times as fast [{low:.3f}, {high:.3f}]"
    return f"{' | '.join(columns)} | {ratio}"


def median_interval(values: list[float]) -> tuple[float, float]:
    """Returns the 95 % interval of a median, by order statistics; of few values their range."""
    count = len(values)
    ordered = sorted(values)
    tail, below = 0.0, 0
    # The chance that at most `below` of the values are below the median.
    while below < count // 2:
        tail += math.comb(count, below) / 2**count
        if tail > 0.025:
            break
        below += 1
    first = max(below - 1, 0)
    return ordered[first], ordered[count - 1 - first]


class Version:
    """A process that runs one version."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        if not (folder / "autoep").is_dir():
            sys.exit(f"{folder}: expected a folder that holds a package autoep")
        command = [sys.executable, __file__, str(folder), "--serve", "--device", options.device]
        command += ["--dtype", options.dtype, "--calls", str(options.calls)]
        self._process = subprocess.Popen(
            [*command, "--cases", *(case.text for case in options.cases)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder.resolve())},
        )

    def ask(self, what: str, case: int) -> object:
        """Returns the answer of `serve`."""
        self._process.stdin.write(f"{what} {case}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit(f"a version ended with status {self._process.wait()}")
        return json.loads(answer)


def serve(options: argparse.Namespace) -> None:
    """Answers each line of standard input with one line on standard output."""
    from measure import rested_turn
    from passes import Passes

    import autoep

    where = Path(autoep.__file__).resolve()
    if options.versions[0].resolve() not in where.parents:
        sys.exit(f"{options.versions[0]}: autoep comes from {where} instead")
    passes: Passes | None = None
    for line in sys.stdin:
        what, case = line.split()
        if what == "build":
            # Frees the last case's memory before the next case allocates.
            passes = call = None
            passes, answer = build_case(options, options.cases[int(case)])
        else:
            call = passes.forward_backward if what == "single" else captured(passes)
            answer = rested_turn(call, options.device, options.calls)
        print(json.dumps(answer), flush=True)


def build_case(options: argparse.Namespace, case: Case) -> tuple:
    """Returns the passes of a case, and the operations of one."""
    import torch
    from layers import build, router_weight
    from passes import Passes

    dtype = DTYPES[options.dtype]
    if options.device == "cuda":
        torch.cuda.empty_cache()
    layer = build("autoep", case.shape, dtype, options.device)
    skew(router_weight(layer, case.shape), case.shape, case.is_skewed)
    passes = Passes(layer, tokens_of(case.shape, case.tokens, dtype, options.device))
    return passes, 3 * case.shape.forward_flops(case.tokens)


def captured(passes: object) -> object:
    """Captures a graph of a pass that has run before; returns a call that replays it."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        passes.forward_backward()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        passes.forward_backward()
    return graph.replay


if __name__ == "__main__":
    main()
