"""Memory and launches for the kernel tests."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import pytest
import torch

from support.cuda import kernels

DEVICE = "cuda"

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# As in compare.py; in bf16 and f16 half a unit in the last place, for one rounding.
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}

_GUARD = 64

Argument = torch.Tensor | ctypes._SimpleCData | ctypes.Structure | int | float | None


def poisoned(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Allocates an output filled with NaN (or a large number), with guards on both sides."""
    count = math.prod(shape)
    poison = float("nan") if dtype.is_floating_point else 0x77777777
    buffer = torch.full((count + 2 * _GUARD,), poison, dtype=dtype, device=DEVICE)
    output = buffer[_GUARD : _GUARD + count].view(shape)
    output.guards = (buffer[:_GUARD], buffer[_GUARD + count :])
    return output


def _check_guards(output: Argument) -> None:
    """Fails if a kernel wrote outside an output."""
    for guard in getattr(output, "guards", ()):
        poison = guard.isnan() if guard.dtype.is_floating_point else guard == 0x77777777
        assert poison.all(), "a kernel wrote outside its output"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert torch.equal(_bits(actual), _bits(expected))


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares with a reference in f64, by norm."""
    assert actual.shape == expected.shape
    actual, dtype = actual.double().cpu(), actual.dtype
    norm = expected.double().norm().item()
    error = (actual - expected.double().cpu()).norm().item()
    assert error <= TOLERANCES[dtype] * norm, f"error {error / max(norm, 1e-300):.3g}"


def fault_word() -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int32, device=DEVICE)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Returns normal numbers of one seed, on the device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).to(DEVICE)


def vector_of(dtype: torch.dtype, *widths: int) -> int:
    """Returns the elements per access: 16 bytes if all widths are whole vectors, else one."""
    wide = 16 // dtype.itemsize
    return wide if all(width % wide == 0 for width in widths) else 1


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None and tensor.numel() else None)


def launch(
    file: str,
    name: str,
    grid: tuple[int, ...],
    block: int,
    arguments: Sequence[Argument],
    *,
    shared_bytes: int = 0,
    **defines: int,
) -> None:
    """Launches a kernel: tensors as pointers, int and float as the C types of these names.

    Then checks that nothing was written outside the outputs of `poisoned`.
    """
    values = []
    for argument in arguments:
        if argument is None or isinstance(argument, torch.Tensor):
            values.append(pointer(argument))
        elif isinstance(argument, int):
            values.append(ctypes.c_int(argument))
        elif isinstance(argument, float):
            values.append(ctypes.c_float(argument))
        else:
            values.append(argument)
    kernels.load(file, **defines).launch(name, grid, block, shared_bytes, values)
    for argument in arguments:
        _check_guards(argument)


def long(value: int) -> ctypes.c_longlong:
    return ctypes.c_longlong(value)


def group_sizes(counts: torch.Tensor, groups: int) -> torch.Tensor:
    """Returns the groups in the form that kernels read: offsets (0), or i32 or i64 counts."""
    if groups == 0:
        counts = torch.cat([torch.zeros(1, dtype=counts.dtype), counts.cumsum(0)])
    return counts.to(torch.int64 if groups == 8 else torch.int32).to(DEVICE)
