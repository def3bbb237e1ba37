"""The time that a GPU's user waits for the first pass of a process.

    python first_call.py SHAPE TOKENS

measures it in this process, and prints the seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time

import torch
from layers import build
from measure import product_tflops
from passes import Passes
from shapes import Shape, shape_named, tokens_of


def first_calls(shape: Shape, tokens: int) -> dict[str, float]:
    """Returns the seconds of a process's first forward and backward, without and with a cache."""
    command = [sys.executable, __file__, shape.name, str(tokens)]
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for state in ("without_cache", "with_cache"):
            environment = os.environ | {"AUTOEP_CACHE_DIR": folder}
            child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            seconds[state] = float(child.stdout.split()[-1])
    return seconds


def _first_call(shape: Shape, tokens: int) -> float:
    """Returns the seconds of the first pass in this process, after torch has started.

    torch imports much when `backward` first receives a gradient: 2 s on one machine.
    """
    x = tokens_of(shape, tokens, torch.bfloat16, "cuda")
    layer = build("autoep", shape, torch.bfloat16, "cuda")
    product_tflops(torch.bfloat16, "cuda")
    plain = torch.zeros(1, device="cuda", requires_grad=True) * 1
    plain.backward(torch.ones_like(plain))
    start = time.perf_counter()
    Passes(layer, x).forward_backward()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(_first_call(shape_named(sys.argv[1]), int(sys.argv[2])))
