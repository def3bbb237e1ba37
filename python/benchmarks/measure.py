"""Times, rates and memory of calls, on a GPU or a CPU."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

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


def product_tflops(dtype: torch.dtype, device: str) -> float:
    """The rate of a plain product, the ceiling of what a layer can reach."""
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / median_of_calls(lambda: a @ b, device) / 1e9


def copy_bytes_per_second(device: str) -> float:
    """The rate of a plain copy, bytes read and written."""
    size = 2**31 if device == "cuda" else 2**28
    source = torch.empty(size, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2e3 * size / median_of_calls(lambda: target.copy_(source), device)


class Run:
    """The passes of one layer on one set of tokens."""

    def __init__(self, layer: nn.Module, x: torch.Tensor) -> None:
        self._layer = layer
        self._x = x
        generator = torch.Generator(x.device.type).manual_seed(2)
        self._grad_y = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    def forward(self) -> None:
        """A pass that keeps nothing."""
        with torch.no_grad():
            self._layer(self._x)

    def forward_backward(self) -> None:
        """A pass and all gradients, which take the place of those before."""
        self.drop_gradients()
        y = self._layer(self._x)
        y = y[0] if isinstance(y, tuple) else y
        y.backward(self._grad_y.view(y.shape))

    def drop_gradients(self) -> None:
        """Frees what the last pass left."""
        self._x.grad = None
        for parameter in self._layer.parameters():
            parameter.grad = None

    def peak_extra_bytes(self) -> int | None:
        """Device memory of a forward and backward above what was there before, gradients too."""
        if self._x.device.type == "cpu":
            return None
        self.drop_gradients()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        self.forward_backward()
        torch.cuda.synchronize()
        self.drop_gradients()
        return torch.cuda.max_memory_allocated() - before


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
