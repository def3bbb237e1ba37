"""Times and rates of calls, on a GPU or a CPU."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Call = Callable[[], object]


def milliseconds(call: Call, device: str) -> float:
    """The time of one call: on a GPU between two events around what it puts into the stream."""
    if device == "cpu":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def median(values: list[float]) -> float:
    """The middle of the values."""
    return sorted(values)[len(values) // 2]


def median_of_calls(call: Call, device: str, count: int = 10) -> float:
    """The median time of some calls, after two that do not count."""
    call()
    call()
    return median([milliseconds(call, device) for _ in range(count)])


def product_tflops(dtype: torch.dtype, device: str, size: int = 0) -> float:
    """The rate of a plain product of square matrices, by default of large ones."""
    size = size or (8192 if device == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_of_calls(lambda: a @ b, device) / 1e9


def copy_bytes_per_second(device: str) -> float:
    """The rate of a plain copy, bytes read and written."""
    size = 2**31 if device == "cuda" else 2**28
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2e3 * size / median_of_calls(lambda: target.copy_(source), device)


def settle() -> None:
    """Waits until no thread of this process is at work.

    Those of OpenBLAS and OpenMP wait for their next task busily for a while, on cores that the next
    to be timed needs: 100 ms and 10 ms.
    """
    busy = 1.0
    while busy > 0.1:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(0.005)
        busy = (time.process_time() - used) / (time.perf_counter() - start)


# A turn of a call takes about so long; a longer call is made once.
_TURN_MS = 200.0


def turn(call: Call, device: str, most_calls: int) -> list[float]:
    """Milliseconds of some calls in a row; the first, on cold caches, counts only when long."""
    first = milliseconds(call, device)
    if first > _TURN_MS:
        return [first]
    calls = min(most_calls, int(_TURN_MS / max(first, 1e-3)))
    return [milliseconds(call, device) for _ in range(max(1, calls))]


def rested_turn(call: Call, device: str, calls: int) -> list[float]:
    """Milliseconds of some calls in a row on a chip that has cooled down; two more do not count."""
    time.sleep(0.5)
    call()
    call()
    return [milliseconds(call, device) for _ in range(calls)]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what takes longer; a compiler of a peer may take minutes."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
