"""The experts on one GPU through the extension's functions, with watched memory around buffers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from random_layer import LayerShape, random_layer

import autoep
from autoep.core.native import engine
from autoep.core.options import DISPATCHES, ExpertsOptions, experts_options
from autoep.functional import _layer_handles as functional_layers
from support import reference

DEVICE = "cuda"
CUDA = 2
_GUARD = 256


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer's shapes and options.

    Attributes:
        sizes: T, K, E, H, F.
        choice: The choice of experts: "random", "skewed", "one expert", "even experts", "dropped".
    """

    sizes: tuple[int, int, int, int, int] = (37, 3, 6, 40, 24)
    dtype: torch.dtype = torch.float32
    weight_dtype: torch.dtype = torch.float32
    index_dtype: torch.dtype = torch.int64
    activation: str = "silu"
    gate: str = "concatenated"
    layout: str = "out_in"
    score_apply: str = "after"
    bias: bool = False
    choice: str = "random"

    @property
    def shape(self) -> LayerShape:
        """The sizes from which its tensors are drawn."""
        return LayerShape(
            *self.sizes,
            gate=self.gate,
            activation=self.activation,
            layout=self.layout,
            biases=self.bias,
        )

    @property
    def options(self) -> ExpertsOptions:
        """`autoep_layer_config` for the extension."""
        _, top_k, experts, hidden, ffn = self.sizes
        return experts_options(
            *(experts, top_k, hidden, ffn, self.dtype),
            activation=self.activation,
            gate=self.gate,
            layout=self.layout,
            score_apply=self.score_apply,
        )


class Data:
    """Inputs of a layer, the same for every dtype up to rounding."""

    def __init__(self, layer: Layer, seed: int = 0) -> None:
        drops = layer.choice == "dropped"
        drawn = random_layer(
            layer.shape,
            layer.dtype,
            seed=seed,
            weight_dtype=layer.weight_dtype,
            index_dtype=layer.index_dtype,
            device=DEVICE,
            choice="random" if drops else layer.choice,
            outside=drops,
        )
        self.layer = layer
        self.x = drawn.x.detach()
        self.grad_y = drawn.grad_y
        self.topk_weights = drawn.topk_weights.detach()
        self.topk_idx = drawn.topk_idx
        self.weights = tuple(
            None if weight is None else weight.detach()
            for weight in (drawn.gate_up, drawn.gate_up_bias, drawn.down, drawn.down_bias)
        )


class Guarded:
    """Device memory that starts as NaN, with a guard on both sides of each output."""

    def __init__(self) -> None:
        self._borders: list[tuple[torch.Tensor, torch.Tensor]] = []

    def empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """Allocates an output of a call."""
        count = torch.Size(shape).numel()
        poison = float("nan") if dtype.is_floating_point else 0x77
        buffer = torch.full((count + 2 * _GUARD,), poison, dtype=dtype, device=DEVICE)
        for border in (buffer[:_GUARD], buffer[_GUARD + count :]):
            self._borders.append((border, border.clone()))
        return buffer[_GUARD : _GUARD + count].view(shape)

    def check(self) -> None:
        """Fails if a call wrote into a guard."""
        for border, original in self._borders:
            same = torch.equal(border.view(torch.uint8), original.view(torch.uint8))
            assert same, "a kernel wrote outside its output"


class Run:
    """One forward and one backward by the engine."""

    def __init__(self, context: Any, data: Data) -> None:
        layer = data.layer
        tokens, top_k, experts, hidden, _ = layer.sizes
        self.context, self.data, self.memory = context, data, Guarded()
        self.layer = functional_layers.Layer(context, layer.options, DISPATCHES["slots"], None)
        empty = self.memory.empty
        self.plan = empty(self.layer.plan_size(tokens), dtype=torch.uint8)
        self.saved = empty(self.layer.saved_size(self.layer.size_of(tokens)), dtype=torch.uint8)
        self.tokens_per_expert = empty(experts, dtype=torch.int32)
        self.y = empty(tokens, hidden, dtype=layer.dtype)
        self.grad_x = empty(tokens, hidden, dtype=layer.dtype)
        self.grad_topk_weights = empty(tokens, top_k, dtype=layer.weight_dtype)
        self.gradients = self.gradients_of(layer.dtype)
        size = self.layer.workspace(data.x, tokens).forward
        self.forward_space = empty(size, dtype=torch.uint8)
        # The same memory for each backward, because a graph may be captured.
        self.backward_spaces: dict[int, torch.Tensor] = {}

    def gradients_of(self, dtype: torch.dtype) -> tuple[torch.Tensor | None, ...]:
        """Allocates the gradients of the weights."""
        return tuple(
            None if weight is None else self.memory.empty(*weight.shape, dtype=dtype)
            for weight in self.data.weights
        )

    def forward(self) -> None:
        """Fills y, plan, saved and tokens_per_expert."""
        data = self.data
        engine.layer_forward(
            *(self.context, self.layer.handle, data.weights, data.x, data.topk_weights),
            *(data.topk_idx, self.tokens_per_expert, self.plan, 0, 0, 0, self.saved, self.y),
            self.forward_space,
        )

    def backward(self, *, accumulate: bool = False, overwrite_saved: bool = False) -> None:
        """Fills the gradients; skips those that are None."""
        data = self.data
        size = self.layer.workspace(
            data.x,
            data.layer.sizes[0],
            overwrite_saved=overwrite_saved,
            lends_gate_up=self.gradients[0] is not None and not accumulate,
            lends_grad_x=self.grad_x is not None,
        ).backward
        if size not in self.backward_spaces:
            self.backward_spaces[size] = self.memory.empty(size, dtype=torch.uint8)
        engine.layer_backward(
            *(self.context, self.layer.handle, data.weights, data.grad_y, data.x),
            *(data.topk_weights, self.plan, 0, 0, 0, self.saved, overwrite_saved),
            *(self.grad_x, self.grad_topk_weights, self.gradients, accumulate),
            self.backward_spaces[size],
        )

    def both(self) -> list[torch.Tensor]:
        """Runs forward and backward; returns all results, in the order of `expected`."""
        self.forward()
        self.backward()
        return self.results()

    def results(self) -> list[torch.Tensor]:
        """Returns the current results, after checking the guards."""
        torch.cuda.synchronize()
        self.memory.check()
        results = [self.y, self.grad_x, self.grad_topk_weights, *self.gradients]
        return [result for result in results if result is not None]


def expected(data: Data, dtype: torch.dtype) -> list[torch.Tensor]:
    """Returns the results of plain torch, computed in a dtype."""
    layer = data.layer

    def leaf(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.detach().to(dtype).requires_grad_()

    x, topk_weights, weights = (
        leaf(data.x),
        leaf(data.topk_weights),
        [leaf(w) for w in data.weights],
    )
    y = reference.experts(
        *(x, data.topk_idx, topk_weights, weights[0], weights[2]),
        gate_up_bias=weights[1],
        down_bias=weights[3],
        activation=layer.activation,
        gate=layer.gate,
        layout=layer.layout,
        score_apply=layer.score_apply,
    )
    leaves = [tensor for tensor in (x, topk_weights, *weights) if tensor is not None]
    gradients = torch.autograd.grad(y, leaves, data.grad_y.to(dtype), materialize_grads=True)
    return [y.detach(), *gradients]


def context_of(stream: torch.cuda.Stream) -> Any:
    return engine.context_create(CUDA, stream.device_index, 0, stream.cuda_stream, None)


def error(actual: torch.Tensor, wanted: torch.Tensor, floor: float = 0.0) -> float:
    difference = (actual.double() - wanted.double()).norm().item()
    return difference / max(wanted.double().norm().item(), floor, 1e-300)


def assert_close(actual: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    floor = 1e-6 * max((w.double().norm().item() for w in wanted), default=0)
    for index, (a, w) in enumerate(zip(actual, wanted, strict=True)):
        assert a.shape == w.shape
        assert error(a, w, floor) <= 3e-6, f"tensor {index}"


def bits(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.contiguous().view(-1).view(torch.uint8).clone() for tensor in tensors]


def assert_same_bits(actual: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert all(torch.equal(a, w) for a, w in zip(actual, wanted, strict=True))


def both_with_dropped_choices(run: Run) -> list[torch.Tensor]:
    """Returns the results; the call after the first raises for choices outside [-1, E)."""
    run.forward()
    torch.cuda.synchronize()
    with pytest.raises(autoep.InvalidArgumentError, match="topk_idx"):
        run.backward()
    run.backward()
    return run.results()
