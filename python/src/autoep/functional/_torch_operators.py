"""A layer's operators in the graphs of torch.compile, and the shapes of their results.

Outside graphs the same functions are called directly: torch's dispatcher takes longer than a
launch. An operator's last arguments are the layer's options, the number of its communicator, and
the engine's build: compiled graphs are cached on disk and contain the sizes of one build.
"""

from __future__ import annotations

from typing import Any

import torch

from autoep.core.native import build
from autoep.core.options import ExpertsOptions, ExpertsWeights
from autoep.distributed.communicator import communicator_of
from autoep.functional._dispatch import combine_forward, combine_gradients, dispatch_forward
from autoep.functional._experts import ExpertsGradients, backward, forward
from autoep.functional._layer_handles import Layer, PlanSize, layer_of
from autoep.functional._torch_schema import arguments_of, library

Tensor = torch.Tensor

VERSION = build()
_LAYER = f"{arguments_of(ExpertsOptions)}, int comm, str version"
_SIZE = "SymInt capacity, SymInt arriving, SymInt plan_id"
_WEIGHTS = "Tensor gate_up, Tensor? gate_up_bias, Tensor down, Tensor? down_bias"
_GRADIENTS = ", ".join(
    f"Tensor({alias}!)? grad_{name}"
    for alias, name in zip("abcdef", ExpertsGradients._fields, strict=True)
)
for schema in (
    f"plan(Tensor topk_idx, {_LAYER})"
    " -> (Tensor plan, Tensor tokens_per_expert, Tensor rows_per_expert, Tensor rows)",
    f"experts(Tensor x, Tensor? topk_idx, Tensor topk_weights, {_WEIGHTS}, Tensor? plan,"
    f" {_SIZE}, {_LAYER}) -> (Tensor y, Tensor saved, Tensor made_plan)",
    f"experts_backward(Tensor grad_y, Tensor? x, Tensor topk_weights, {_WEIGHTS}, Tensor plan,"
    f" {_SIZE}, Tensor saved, {_GRADIENTS}, bool accumulate, {_LAYER}) -> ()",
    f"dispatch(Tensor x, Tensor? topk_weights, Tensor plan, {_SIZE}, SymInt rows, {_LAYER})"
    " -> Tensor",
    f"combine(Tensor rows, Tensor? topk_weights, Tensor plan, {_SIZE}, SymInt tokens, {_LAYER})"
    " -> Tensor",
    f"combine_backward(Tensor grad_y, Tensor rows, Tensor topk_weights, Tensor plan, {_SIZE},"
    f" {_LAYER})"
    " -> (Tensor grad_rows, Tensor grad_topk_weights)",
):
    library.define(schema)


def _layer(like: Tensor, layer: tuple) -> Layer:
    *options, comm, _ = layer
    return layer_of(like, ExpertsOptions(*options), communicator_of(comm))


def _plan(topk_idx: Tensor, *layer: Any) -> tuple[Tensor, ...]:
    plan, sent, received, rows, size = _layer(topk_idx, layer).plan(topk_idx.contiguous())
    # An operator must not return one tensor twice, as the plan of a single rank would.
    received = received.clone() if received is sent else received
    return plan, sent, received, torch.tensor((rows, *size), device="cpu")


def _plan_results(topk_idx: Tensor, *layer: Any) -> tuple[Tensor, ...]:
    made_for = _layer(topk_idx, layer)
    return (
        topk_idx.new_empty((made_for.plan_size(topk_idx.shape[0]),), dtype=torch.uint8),
        topk_idx.new_empty((made_for.options.num_experts,), dtype=torch.int32),
        topk_idx.new_empty((made_for.local_experts,), dtype=torch.int32),
        torch.empty((4,), dtype=torch.int64, device="cpu"),
    )


def _experts(x: Tensor, topk_idx: Tensor | None, topk_weights: Tensor, *others: Any) -> tuple:
    *weights, plan = others[:5]
    size = None if plan is None else PlanSize(*others[5:8])
    y, saved, followed, _ = forward(
        _layer(x, others[8:]), x, topk_idx, topk_weights, ExpertsWeights(*weights), plan, size
    )
    # An operator must not return one of its inputs.
    return y, saved, followed if plan is None else followed.new_empty(0)


def _experts_results(x: Tensor, *others: Any) -> tuple[Tensor, ...]:
    plan, *size = others[6:10]
    layer, tokens = _layer(x, others[10:]), x.shape[0]
    sizes = layer.saved_size(PlanSize(*size)), 0
    if plan is None:
        sizes = layer.saved_size(layer.size_of(tokens)), layer.plan_size(tokens)
    return x.new_empty(x.shape), *(x.new_empty((size,), dtype=torch.uint8) for size in sizes)


def _experts_backward(grad_y: Tensor, x: Tensor | None, topk_weights: Tensor, *others: Any) -> None:
    weights, (plan, *size, saved), gradients = others[:4], others[4:9], others[9:15]
    backward(
        *(_layer(grad_y, others[16:]), grad_y, x, topk_weights, ExpertsWeights(*weights)),
        *(plan, PlanSize(*size), saved, ExpertsGradients(*gradients)),
        accumulate=others[15],
    )


def _dispatch(x: Tensor, topk_weights: Tensor | None, plan: Tensor, *others: Any) -> Tensor:
    *size, rows = others[:4]
    return dispatch_forward(_layer(x, others[4:]), x, topk_weights, plan, PlanSize(*size), rows)


def _combine(rows: Tensor, topk_weights: Tensor | None, plan: Tensor, *others: Any) -> Tensor:
    *size, tokens = others[:4]
    return combine_forward(
        _layer(rows, others[4:]), rows, topk_weights, plan, PlanSize(*size), tokens
    )


def _combine_backward(
    grad_y: Tensor, rows: Tensor, topk_weights: Tensor, plan: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    return combine_gradients(
        _layer(rows, others[3:]), grad_y, rows, topk_weights, plan, PlanSize(*others[:3])
    )


def _rows_like(first: Tensor, *others: Any) -> Tensor:
    return first.new_empty((others[5], first.shape[1]))


def _combine_gradients(_grad: Any, rows: Tensor, weights: Tensor, *_: Any) -> tuple:
    return rows.new_empty(rows.shape), weights.new_empty(weights.shape)


for name, function, results in (
    ("plan", _plan, _plan_results),
    ("experts", _experts, _experts_results),
    ("experts_backward", _experts_backward, lambda *_: None),
    ("dispatch", _dispatch, _rows_like),
    ("combine", _combine, _rows_like),
    ("combine_backward", _combine_backward, _combine_gradients),
):
    library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"autoep::{name}", results, lib=library)
