"""How tensors lend their memory to the extension: by C functions, by DLPack, and from a GPU."""

from __future__ import annotations

import gc
import sys
from typing import Any

import numpy
import pytest
import torch

import autoep
from autoep.core.native import engine

CPU = engine.context_create(1, 0, 1, 0, None)


def jitter(x: Any, y: Any) -> None:
    engine.jitter(CPU, x, 0.1, 7, y)


class Producer:
    """Passes on what it is asked, and counts it."""

    def __init__(self, tensor: torch.Tensor, device: tuple[int, int] = (1, 0)) -> None:
        self.tensor = tensor
        self.device = device
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        options.pop("stream", None)
        return self.tensor.__dlpack__(**options)


class OldProducer(Producer):
    """Knows nothing of versions."""

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(dict(options))
        if "max_version" in options:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.tensor.__dlpack__()


def test_every_way_to_lend_gives_the_same() -> None:
    x = torch.randn(5, 3)
    expected = torch.empty_like(x)
    jitter(x, expected)
    assert not torch.equal(expected, x)
    lenders = [
        x.numpy(),
        torch.nn.Parameter(x, requires_grad=False),
        Producer(x),
        OldProducer(x),
        x[None][0],
        torch.cat([x, x])[5:],
    ]
    for lender in lenders:
        y = torch.empty_like(x)
        jitter(lender, y)
        assert torch.equal(y, expected), type(lender)


def test_a_type_made_of_a_tensor_lends_in_its_own_way() -> None:
    class Wrapped(torch.Tensor):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("wrapped memory")

    x = torch.ones(5, 3)
    with pytest.raises(autoep.InvalidArgumentError, match="wrapped memory"):
        jitter(x.as_subclass(Wrapped), x)


def test_memory_of_a_gpu_is_taken_without_a_wait() -> None:
    x = torch.ones(5, 3)
    for kind, asked in (
        (Producer, [{"max_version": (1, 0)}]),
        (OldProducer, [{"max_version": (1, 0)}, {}]),
    ):
        on_cpu, on_gpu = kind(x), kind(x, (2, 0))
        jitter(on_cpu, x.clone())
        assert on_cpu.asked == asked
        jitter(on_gpu, x.clone())
        assert len(on_gpu.asked) == len(asked)
    # A producer that keeps its options as they came.
    gpu = OldProducer(x, (2, 0))
    jitter(gpu, x.clone())
    assert gpu.asked == [{"max_version": (1, 0), "stream": -1}, {"stream": -1}]


def test_nothing_is_kept_of_a_tensor() -> None:
    x, y = torch.ones(5, 3), torch.ones(5, 3)
    grad = torch.ones(5, 3, requires_grad=True)
    before = [sys.getrefcount(tensor) for tensor in (x, y, grad)]
    for _ in range(10):
        jitter(x, y)
        with pytest.raises(autoep.InvalidArgumentError):
            jitter(x[:, 1:], y)
        with pytest.raises(autoep.InvalidArgumentError, match=r"detach\(\)"):
            jitter(x, grad)
        with pytest.raises(autoep.InvalidArgumentError):
            jitter(torch.ones(5, 3, device="meta"), y)
    gc.collect()
    assert [sys.getrefcount(tensor) for tensor in (x, y, grad)] == before


def test_a_context_of_a_gpu_names_what_is_missing() -> None:
    if torch.cuda.is_available():
        engine.context_create(2, 0, 0, 0, None)
        with pytest.raises(autoep.InvalidArgumentError, match="CUDA device 99 does not exist"):
            engine.context_create(2, 99, 0, 0, None)
        return
    with pytest.raises((autoep.MissingLibraryError, autoep.UnsupportedError), match=r"cuda|CUDA"):
        engine.context_create(2, 0, 0, 0, None)


def test_numpy_and_torch_can_be_mixed() -> None:
    x = numpy.ones((5, 3), numpy.float32)
    y, z = torch.empty(5, 3), numpy.empty((5, 3), numpy.float32)
    jitter(x, y)
    jitter(torch.from_numpy(x), z)
    assert numpy.array_equal(y.numpy(), z)
