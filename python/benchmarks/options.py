"""The command line of bench_layer.py."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from layers import DEFAULT_LAYERS, LAYERS
from shapes import DTYPES, SHAPES, Shape

from autoep import functional

PARTS = {
    "cuda": ("layer", "memory"),
    "cpu": ("layer", "experts", "products", "expert_counts", "ranks", "memory"),
}


def parse(description: str, arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=tuple(SHAPES), default="cpu")
    parser.add_argument("--parts", nargs="+", help="all of the device's otherwise")
    parser.add_argument("--shapes", nargs="+", help="by name; all of the device's otherwise")
    parser.add_argument("--tokens", nargs="+", type=int, help="those of each shape otherwise")
    parser.add_argument("--dtypes", nargs="+", choices=tuple(DTYPES))
    parser.add_argument(
        "--routing", nargs="+", choices=("balanced", "skewed"), default=["balanced", "skewed"]
    )
    parser.add_argument("--peers", nargs="*", choices=tuple(LAYERS), help="besides autoep")
    parser.add_argument("--threads", type=int, help="on a CPU; the engine's default otherwise")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all layers")
    parser.add_argument("--calls", type=int, default=5, help="at most, of each pass in a turn")
    parser.add_argument(
        "--rested", action="store_true", help="a rest before each turn, no product that heats"
    )
    parser.add_argument("--peer-seconds", type=int, default=180, help="for a first call")
    parser.add_argument("--slow-seconds", type=float, default=8, help="longer calls: one turn")
    parser.add_argument("--expert-counts", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--profile", action="store_true", help="the kernels of a pass on a GPU")
    parser.add_argument("--no-first-call", action="store_true")
    parser.add_argument("--out", type=Path, help="a folder for JSON and plot")
    options = parser.parse_args(arguments)
    _check_device(parser, options)
    gpu = options.device == "cuda"
    options.dtypes = options.dtypes or (["bf16"] if gpu else ["f32", "bf16"])
    options.threads = options.threads or functional.num_threads()
    if options.peers is None:
        options.peers = DEFAULT_LAYERS[options.device]
    options.layers = list(dict.fromkeys(("autoep", *options.peers)))
    return options


def _check_device(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Sets the defaults of the device, and refuses what the device lacks."""
    shapes = {shape.name: shape for shape in SHAPES[options.device]}
    for name, known in (("shapes", tuple(shapes)), ("parts", PARTS[options.device])):
        given = getattr(options, name) or known
        if unknown := [each for each in given if each not in known]:
            parser.error(f"--{name}: {', '.join(unknown)}; known: {', '.join(known)}")
        setattr(options, name, list(given))
    options.shapes = [shapes[name] for name in options.shapes]
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; --device cpu works")


def tokens_for(options: argparse.Namespace, shape: Shape) -> list[int]:
    """Returns the numbers of tokens to measure a shape with."""
    return options.tokens or list(shape.tokens)
