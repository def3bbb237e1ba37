"""The memory of a forward and backward above what was in use before, gradients included.

    python memory.py LAYER SHAPE TOKENS DTYPE THREADS

measures it in a process of its own on a CPU, and prints the bytes.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import torch
from layers import build
from passes import Case, Passes
from shapes import DTYPES, Shape, shape_named, tokens_of

from autoep import functional


def peak_extra_bytes_on_gpu(passes: Passes) -> int:
    """Returns the bytes on a device whose allocator counts."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    passes.forward_backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def peak_extra_bytes_in_a_process(layer: str, case: Case, threads: int) -> int:
    """Returns the bytes on a CPU, where the system counts the memory of a whole process."""
    arguments = [layer, case.shape.name, str(case.tokens), case.dtype, str(threads)]
    child = subprocess.run(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(child.stdout.split()[-1])


def _peak_extra_bytes(layer: str, shape: Shape, tokens: int, dtype: str) -> int:
    _start_libraries(layer, dtype)
    x = tokens_of(shape, tokens, DTYPES[dtype], "cpu")
    passes = Passes(build(layer, shape, DTYPES[dtype], "cpu"), x)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current use
    before = _status_bytes("VmRSS")
    passes.forward_backward()
    return _status_bytes("VmHWM") - before


def _start_libraries(layer: str, dtype: str) -> None:
    """Loads code and starts threads, which are not measured."""
    small = Shape("small", 64, 64, 4, 2, ())
    x = tokens_of(small, 64, DTYPES[dtype], "cpu")
    Passes(build(layer, small, DTYPES[dtype], "cpu"), x).forward_backward()


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


def _main(layer: str, shape: str, tokens: str, dtype: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    functional.set_num_threads(int(threads))
    print(_peak_extra_bytes(layer, shape_named(shape), int(tokens), dtype))


if __name__ == "__main__":
    _main(*sys.argv[1:])
