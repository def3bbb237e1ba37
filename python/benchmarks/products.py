"""The grouped GEMM alone: the products of a layer, into memory that was written before.

Legend: T tokens, K experts per token, N = T*K routed copies, E experts, I and O the columns of the
rows and of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import openblas
import torch
from layers import EngineLayer, can_compute
from passes import Case, Pass
from torch import Tensor

from autoep.core.contexts import context
from autoep.core.native import engine

_OUT_IN, _IN_OUT = 1, 2  # AUTOEP_WEIGHT_OUT_IN, AUTOEP_WEIGHT_IN_OUT

# Arguments: grad or rows, the other factor, the counts, and the output.
Product = Callable[[Tensor, Tensor, list[int], Tensor], None]


def product_passes(case: Case, topk_idx: Tensor, layer: EngineLayer) -> Iterator[Pass]:
    """Yields the product, and both gradients, of each weight [E, O, I], by each contender."""
    counts = topk_idx.flatten().bincount(minlength=case.shape.experts).tolist()
    for name, parameter in (("gate_up", layer.gate_up), ("down", layer.down)):
        weights_EOI = parameter.detach()
        _, columns_out, columns_in = weights_EOI.shape
        rows_NI = _random(sum(counts), columns_in, weights_EOI.dtype)
        grad_NO = _random(sum(counts), columns_out, weights_EOI.dtype)
        arguments = {
            "forward": (rows_NI, weights_EOI, counts, torch.zeros_like(grad_NO)),
            "input gradient": (grad_NO, weights_EOI, counts, torch.zeros_like(rows_NI)),
            "weight gradient": (grad_NO, rows_NI, counts, torch.zeros_like(weights_EOI)),
        }
        flops = 2 * sum(counts) * columns_in * columns_out
        for contender, products in _CONTENDERS.items():
            if not can_compute(contender, case.dtype):
                continue
            for (form, given), product in zip(arguments.items(), products, strict=True):
                yield Pass(f"product {name}", contender, form, flops, partial(product, *given))


def _random(rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, columns, generator=generator).to(dtype)


def _engine_forward(rows: Tensor, weights: Tensor, counts: list[int], out: Tensor) -> None:
    engine.grouped_gemm(context(), rows, weights, _OUT_IN, torch.tensor(counts), out)


def _engine_input_gradient(grad: Tensor, weights: Tensor, counts: list[int], out: Tensor) -> None:
    engine.grouped_gemm(context(), grad, weights, _IN_OUT, torch.tensor(counts), out)


def _engine_weight_gradient(grad: Tensor, rows: Tensor, counts: list[int], out: Tensor) -> None:
    engine.grouped_gemm_weight_grad(context(), grad, rows, _OUT_IN, torch.tensor(counts), out)


def _torch_forward(rows: Tensor, weights: Tensor, counts: list[int], out: Tensor) -> None:
    for x, weight, y in zip(rows.split(counts), weights, out.split(counts), strict=True):
        torch.mm(x, weight.t(), out=y)


def _torch_input_gradient(grad: Tensor, weights: Tensor, counts: list[int], out: Tensor) -> None:
    for dy, weight, dx in zip(grad.split(counts), weights, out.split(counts), strict=True):
        torch.mm(dy, weight, out=dx)


def _torch_weight_gradient(grad: Tensor, rows: Tensor, counts: list[int], out: Tensor) -> None:
    for dy, x, dw in zip(grad.split(counts), rows.split(counts), out, strict=True):
        torch.mm(dy.t(), x, out=dw)


_CONTENDERS: dict[str, tuple[Product, Product, Product]] = {
    "autoep": (_engine_forward, _engine_input_gradient, _engine_weight_gradient),
    "torch_mm": (_torch_forward, _torch_input_gradient, _torch_weight_gradient),
    "openblas": (openblas.forward, openblas.input_gradient, openblas.weight_gradient),
}
