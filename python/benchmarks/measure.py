"""Times and rates of calls, on a GPU or a CPU."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Call = Callable[[], object]


def milliseconds(call: Call, device: str) -> float:
    """Returns the time of one call: on a GPU between two events around what it enqueues."""
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
    """Returns the median of the values."""
    return sorted(values)[len(values) // 2]


def median_of_calls(call: Call, device: str, count: int = 10) -> float:
    """Returns the median time of some calls, after two uncounted ones."""
    call()
    call()
    return median([milliseconds(call, device) for _ in range(count)])


def product_tflops(dtype: torch.dtype, device: str, size: int = 0) -> float:
    """Returns the rate of a plain product of square matrices, by default of large ones."""
    size = size or (8192 if device == "cuda" else 2048)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_of_calls(lambda: a @ b, device) / 1e9


def copy_bytes_per_second(device: str) -> float:
    """Returns the rate of a plain copy, bytes read and written."""
    size = 2**31 if device == "cuda" else 2**28
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2e3 * size / median_of_calls(lambda: target.copy_(source), device)


def settle() -> None:
    """Waits until no thread of this process is busy.

    Threads of OpenBLAS and OpenMP spin while they wait for their next task (100 ms and 10 ms), on
    cores that the next measurement needs.
    """
    busy = 1.0
    while busy > 0.1:
        start, used = time.perf_counter(), time.process_time()
        time.sleep(0.005)
        busy = (time.process_time() - used) / (time.perf_counter() - start)


# The approximate length of a turn; a longer call is made once.
_TURN_MS = 200.0


def turn(call: Call, device: str, most_calls: int) -> list[float]:
    """Returns the milliseconds of consecutive calls; the first, on cold caches, only if long."""
    first = milliseconds(call, device)
    if first > _TURN_MS:
        return [first]
    calls = min(most_calls, int(_TURN_MS / max(first, 1e-3)))
    return [milliseconds(call, device) for _ in range(max(1, calls))]


def rested_turn(call: Call, device: str, calls: int) -> list[float]:
    """Returns the milliseconds of consecutive calls on a cooled chip, after two uncounted ones."""
    time.sleep(0.5)
    call()
    call()
    return [milliseconds(call, device) for _ in range(calls)]


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises TimeoutError if the context takes longer; a peer's compiler may take minutes."""

    def late(*_: object) -> None:
        raise TimeoutError(f"it took more than {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
