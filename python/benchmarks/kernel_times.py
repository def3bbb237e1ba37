"""The time of each kernel of a pass, beside the time of its work at measured rates.

Legend: T tokens, K experts per token, N = T*K copies, E experts, H hidden size, F expert FFN size,
G = 2F.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from measure import Call
from shapes import Shape


@dataclass(frozen=True)
class KernelTime:
    """All launches of one kernel in a pass.

    Attributes:
        name: The kernel's name.
        launches: The number of launches.
        milliseconds: The time of all launches.
        floor: Milliseconds that the work takes at the measured rates; None if unknown.
    """

    name: str
    launches: int
    milliseconds: float
    floor: float | None


@dataclass(frozen=True)
class Rates:
    """The rates that the device reached in this run: a plain product, and a plain copy."""

    tflops: float
    bytes_per_second: float


def kernel_times(
    call: Call, shape: Shape, tokens: int, rates: Rates, passes: int = 3
) -> list[KernelTime]:
    """Times the kernels of a forward and backward, longest first."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(passes):
            call()
        torch.cuda.synchronize()
    found = [
        _kernel_time(
            event.key, event.count, event.self_device_time_total, passes, shape, tokens, rates
        )
        for event in profile.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(found, key=lambda kernel: -kernel.milliseconds)


def _kernel_time(
    name: str, count: int, microseconds: float, passes: int, shape: Shape, tokens: int, rates: Rates
) -> KernelTime:
    launches = max(1, round(count / passes))
    work = next((work for pattern, work in _WORK if re.search(pattern, name)), None)
    floor = None if work is None else work(shape, tokens, launches).milliseconds(rates)
    return KernelTime(name, launches, microseconds / 1e3 / passes, floor)


@dataclass(frozen=True)
class _Work:
    flops: float = 0.0
    bytes: float = 0.0

    def milliseconds(self, rates: Rates) -> float:
        """Returns the longer of the two times."""
        return max(self.flops / rates.tflops / 1e9, 1e3 * self.bytes / rates.bytes_per_second)


def _products(shape: Shape, tokens: int, _launches: int) -> _Work:
    """Returns the work of gate/up, down, and the gradients to their inputs."""
    return _Work(flops=2 * shape.forward_flops(tokens))


def _weight_gradients(shape: Shape, tokens: int, _launches: int) -> _Work:
    return _Work(flops=shape.forward_flops(tokens))


def _moved(elements: Callable[[Shape, int], int]) -> Callable[[Shape, int, int], _Work]:
    """Returns the work of launches that read and write this many elements of two bytes."""
    return lambda shape, tokens, launches: _Work(bytes=2.0 * launches * elements(shape, tokens))


def _copies(shape: Shape, tokens: int) -> int:
    """Returns T*H + N*H elements."""
    return tokens * (1 + shape.top_k) * shape.hidden


def _activated(shape: Shape, tokens: int) -> int:
    """Returns N*G + N*F elements."""
    return 3 * tokens * shape.top_k * shape.ffn


def _router(shape: Shape, tokens: int) -> int:
    """Returns T*H + E*H + T*E elements."""
    return (tokens + shape.experts) * shape.hidden + _logits(shape, tokens)


def _logits(shape: Shape, tokens: int) -> int:
    return tokens * shape.experts


# By the kernels' names; the first match counts.
_WORK: tuple[tuple[str, Callable[[Shape, int, int], _Work]], ...] = (
    (r"weight_grad", _weight_gradients),
    (r"grouped_gemm", _products),
    (r"permute", _moved(_copies)),
    (r"activate_backward", _moved(lambda shape, tokens: 2 * _activated(shape, tokens))),
    (r"activate", _moved(_activated)),
    (r"router_logits", _moved(_router)),
    (r"route", _moved(_logits)),
    (r"sort|slots", _moved(lambda shape, tokens: 8 * tokens * shape.top_k)),
)
