"""Products of grouped rows by one OpenBLAS call per group; torch's `mm` uses another library.

Legend: R rows, E groups, I columns of the rows, O columns of the result.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

_ROW_MAJOR, _AS_IT_IS, _TRANSPOSED = 101, 111, 112  # of cblas.h


def is_installed() -> bool:
    """Whether an OpenBLAS is installed."""
    try:
        _library()
    except OSError:
        return False
    return True


def set_num_threads(threads: int) -> None:
    """Sets the number of threads per call."""
    _library().openblas_set_num_threads(threads)


def forward(rows_RI: Tensor, weights_EOI: Tensor, counts: list[int], out_RO: Tensor) -> None:
    """Writes each row times its group's weight."""
    for rows, weight, out in _groups(counts, rows_RI, weights_EOI, out_RO):
        _multiply(rows, weight.t(), out)


def input_gradient(
    grad_RO: Tensor, weights_EOI: Tensor, counts: list[int], grad_RI: Tensor
) -> None:
    """Writes the gradient to the rows."""
    for grad, weight, grad_rows in _groups(counts, grad_RO, weights_EOI, grad_RI):
        _multiply(grad, weight, grad_rows)


def weight_gradient(grad_RO: Tensor, rows_RI: Tensor, counts: list[int], grad_EOI: Tensor) -> None:
    """Writes the gradient to the weights: zeros for a group without rows."""
    for grad, grad_weight, rows in _groups(counts, grad_RO, grad_EOI, rows_RI):
        _multiply(grad.t(), rows, grad_weight)


class GroupedProduct(torch.autograd.Function):
    """`forward`, differentiable."""

    @staticmethod
    def forward(ctx, rows_RI: Tensor, weights_EOI: Tensor, counts: list[int]) -> Tensor:
        """[R, I] to [R, O]."""
        ctx.save_for_backward(rows_RI, weights_EOI)
        ctx.counts = counts
        out_RO = rows_RI.new_empty(rows_RI.shape[0], weights_EOI.shape[1])
        forward(rows_RI, weights_EOI, counts, out_RO)
        return out_RO

    @staticmethod
    def backward(ctx, grad_RO: Tensor) -> tuple[Tensor, Tensor, None]:
        """[R, O] to [R, I] and [E, O, I]."""
        rows_RI, weights_EOI = ctx.saved_tensors
        grad_RO = grad_RO.contiguous()
        grad_RI, grad_EOI = torch.empty_like(rows_RI), torch.empty_like(weights_EOI)
        input_gradient(grad_RO, weights_EOI, ctx.counts, grad_RI)
        weight_gradient(grad_RO, rows_RI, ctx.counts, grad_EOI)
        return grad_RI, grad_EOI, None


def _groups(
    counts: list[int], rows: Tensor, matrices: Tensor, other_rows: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields the rows, the matrix and the other rows of each group."""
    return zip(rows.split(counts), matrices, other_rows.split(counts), strict=True)


def _multiply(a_MK: Tensor, b_KN: Tensor, out_MN: Tensor) -> None:
    """Writes a product of float32 matrices, the factors in row order or transposed."""
    (rows, inner), columns = a_MK.shape, b_KN.shape[1]
    if inner == 0:
        out_MN.zero_()
        return
    _library().cblas_sgemm(
        _ROW_MAJOR,
        *(_AS_IT_IS if matrix.is_contiguous() else _TRANSPOSED for matrix in (a_MK, b_KN)),
        *(rows, columns, inner),
        1.0,
        *(a_MK.data_ptr(), inner if a_MK.is_contiguous() else rows),
        *(b_KN.data_ptr(), columns if b_KN.is_contiguous() else inner),
        0.0,
        *(out_MN.data_ptr(), columns),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    if "avx512" in Path("/proc/cpuinfo").read_text():
        # By default, or with an inherited setting, it may use its AVX2 kernels, half as fast.
        os.environ["OPENBLAS_CORETYPE"] = "SkylakeX"
    library = ctypes.CDLL("libopenblas.so.0")
    size, number, matrix = ctypes.c_int, ctypes.c_float, ctypes.c_void_p
    library.cblas_sgemm.argtypes = (
        *(size, size, size, size, size, size),
        number,
        *(matrix, size, matrix, size),
        number,
        *(matrix, size),
    )
    return library
