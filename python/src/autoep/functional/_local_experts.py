"""All experts of a layer on one GPU, as torch operators. Imported when a CUDA tensor is given.

Their work is only put into the current stream: nothing waits for the device. torch.compile takes
each operator as one node; elsewhere they are called past torch's dispatch, for which the device
would wait. Legend: T tokens, K experts a token, N = T*K copies, E experts, H hidden size, F expert
FFN size, G = 2F with a gate and F without.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import FunctionCtx

from autoep._arrays import dtype_name
from autoep._first_order import first_order_only
from autoep._native import engine
from autoep._options import GPU_DTYPES, LAYOUTS, choice
from autoep._saved import is_kept_as_it_is, take_hidden
from autoep.errors import InvalidArgumentError
from autoep.functional._runtime import context_of

Tensor = torch.Tensor
# gate_up, gate_up_bias, down, down_bias, as the engine orders them.
Weights = tuple[Tensor, Tensor | None, Tensor, Tensor | None]
Buffers = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
# activation, gate, layout, score_apply, swiglu_alpha and swiglu_limit, as the engine numbers them.
Options = tuple[int, int, int, int, float, float]

_NO_BUFFERS: Buffers = (None, None, None, None)
_WEIGHT_NAMES = ("gate_up", "gate_up_bias", "down", "down_bias")
_NDIMS = {"gate_up": 3, "down": 3, "selection_bias": 1}  # of the others 2
_OUT_IN = LAYOUTS["out_in"]
_OPTIONAL = ("gate_up_bias", "down_bias", "selection_bias")
_PLAIN = (torch.Tensor, torch.nn.Parameter)  # and no DTensor
_DTYPES = {getattr(torch, name): number for name, number in GPU_DTYPES.items()}

_library = torch.library.Library("autoep", "FRAGMENT")
_WEIGHTS = "Tensor gate_up, Tensor? gate_up_bias, Tensor down, Tensor? down_bias"
_OPTIONS = (
    "int activation, int gate, int layout, int score_apply, float swiglu_alpha, float swiglu_limit"
)
_library.define(
    f"local_experts(Tensor x, Tensor topk_idx, Tensor topk_weights, {_WEIGHTS}, {_OPTIONS})"
    " -> (Tensor y, Tensor hidden, Tensor routing)"
)
_library.define(
    f"local_experts_backward(Tensor grad_y, Tensor x, Tensor topk_weights, {_WEIGHTS},"
    " Tensor hidden, Tensor routing, Tensor(a!)? grad_x, Tensor(b!)? grad_topk_weights,"
    " Tensor(c!)? grad_gate_up, Tensor(d!)? grad_gate_up_bias, Tensor(e!)? grad_down,"
    f" Tensor(f!)? grad_down_bias, Tensor(g!)? grad_hidden, bool accumulate, {_OPTIONS}) -> ()"
)


def local_experts(
    x: Tensor,
    topk_idx: Tensor,
    topk_weights: Tensor,
    weights: Weights,
    options: Options,
    buffers: Buffers | None = None,
) -> Tensor:
    """Computes what `functional.experts` documents, on one GPU.

    Under autocast x and the weights are taken in its dtype, as `torch.nn.functional.linear` takes
    them; topk_weights stay as they are. The cast copies of the weights live until the backward.

    Args:
        x: [T, H] float32, bfloat16 or float16.
        topk_idx: [T, K].
        topk_weights: [T, K].
        weights: gate_up, gate_up_bias, down and down_bias.
        options: What they compute, in the engine's numbers.
        buffers: Where the gradients of the weights are added; None to return them.

    Returns:
        y, [T, H].
    """
    check(x=x, topk_idx=topk_idx, topk_weights=topk_weights)
    check(**dict(zip(_WEIGHT_NAMES, weights, strict=True)))
    if buffers is not None:
        _check_buffers(weights, buffers)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, *weights = [_cast(tensor, dtype) for tensor in (x, *weights)]
    tensors = (x, topk_idx, topk_weights, *weights)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return LocalExperts.apply(options, buffers, *tensors)
    return run_forward(*tensors, *options)[0]


class LocalExperts(torch.autograd.Function):
    """Keeps the pre-activation and the routing; the rest is computed again."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        options: Options,
        buffers: Buffers | None,
        x: Tensor,
        topk_idx: Tensor,
        topk_weights: Tensor,
        gate_up: Tensor,
        gate_up_bias: Tensor | None,
        down: Tensor,
        down_bias: Tensor | None,
    ) -> Tensor:
        """[T, H] to [T, H]."""
        weights = (gate_up, gate_up_bias, down, down_bias)
        y, hidden, routing = run_forward(x, topk_idx, topk_weights, *weights, *options)
        ctx.save_for_backward(x, topk_weights, *weights, hidden, routing)
        # Not among the saved ones, which a backward in between may not change.
        ctx.buffers = buffers
        ctx.options = options
        ctx.is_hidden_ours = is_kept_as_it_is()
        return y

    @staticmethod
    @first_order_only
    def backward(ctx: FunctionCtx, grad_y: Tensor) -> tuple:
        """[T, H] to the gradients of the tensors, in their order."""
        x, topk_weights, *weights, hidden, routing = ctx.saved_tensors
        wants_x, _, wants_scores, *wanted = ctx.needs_input_grad[2:]
        grad_x, grad_scores, *grad_weights = gradients(
            ctx, grad_y, x, topk_weights, weights, hidden, routing, (wants_x, wants_scores, *wanted)
        )
        return None, None, grad_x, None, grad_scores, *grad_weights


def gradients(
    ctx: FunctionCtx,
    grad_y: Tensor,
    x: Tensor,
    topk_weights: Tensor,
    weights: Sequence[Tensor | None],
    hidden: Tensor,
    routing: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients of `run_forward` to x, topk_weights and the weights, those that are wanted.

    The ones to the weights are added to the buffers where there are any.

    Args:
        ctx: Has `options`, `buffers` and `is_hidden_ours`.
        grad_y: [T, H].
        x: [T, H].
        topk_weights: [T, K].
        weights: gate_up, gate_up_bias, down and down_bias.
        hidden: What the forward kept, as routing.
        routing: See hidden.
        wanted: For x, topk_weights and each of the weights.
    """
    accumulate = ctx.buffers is not None
    grad_x, grad_scores, *grad_weights = (
        _empty_like(of) if is_wanted and of is not None else None
        for of, is_wanted in zip(
            (x, topk_weights, *(_NO_BUFFERS if accumulate else weights)), wanted, strict=True
        )
    )
    places = grad_weights
    if accumulate:
        places = [
            buffer if is_wanted else None
            for buffer, is_wanted in zip(ctx.buffers, wanted[2:], strict=True)
        ]
    run = _backward
    if torch.compiler.is_compiling():
        run = torch.ops.autoep.local_experts_backward
    run(
        grad_y,
        x,
        topk_weights,
        *weights,
        hidden,
        routing,
        grad_x,
        grad_scores,
        *places,
        hidden if take_hidden(ctx, hidden) else None,
        accumulate,
        *ctx.options,
    )
    return [grad_x, grad_scores, *grad_weights]


def run_forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`local_experts`, as an operator where it is traced."""
    if torch.compiler.is_compiling():
        return torch.ops.autoep.local_experts(*arguments)
    return forward(*arguments)


def forward(
    x: Tensor,
    topk_idx: Tensor,
    topk_weights: Tensor,
    gate_up: Tensor,
    gate_up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    *options: Any,
    tokens_per_expert: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `local_experts`; elsewhere it fills `tokens_per_expert` [E], too."""
    x_TH, idx_TK, weights_TK = dense(x), dense(topk_idx), dense(topk_weights)
    context, config = context_of(x_TH), _config(x, gate_up, down, options)
    _, workspace_bytes, *_ = _sizes(context, config, *topk_idx.shape)
    results = y_TH, hidden_NG, routing = _forward_results(
        x, topk_idx, topk_weights, gate_up, gate_up_bias, down, down_bias, *options
    )
    engine.local_experts_forward(
        context,
        config,
        tuple(map(dense, (gate_up, gate_up_bias, down, down_bias))),
        x_TH,
        idx_TK,
        weights_TK,
        routing,
        hidden_NG,
        tokens_per_expert,
        y_TH,
        _bytes(workspace_bytes, x),
    )
    return results


def _forward_results(
    x: Tensor,
    topk_idx: Tensor,
    topk_weights: Tensor,
    gate_up: Tensor,
    gate_up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `local_experts` returns, uninitialised; also its fake kernel."""
    num_experts = gate_up.shape[0]
    rows = topk_idx.shape[0] * topk_idx.shape[1]
    width = gate_up.shape[1 if options[2] == _OUT_IN else 2]
    return (
        x.new_empty(x.shape),
        x.new_empty((rows, width)),
        _bytes(_routing_bytes(rows, num_experts), x),
    )


@functools.lru_cache(maxsize=256)
def _sizes(
    context: engine.Handle, config: tuple, tokens: int, top_k: int
) -> tuple[int, int, int, int]:
    """What `engine.local_experts_describe` tells; the same for each layer and step."""
    return engine.local_experts_describe(context, config, tokens, top_k)


def _routing_bytes(rows: int, num_experts: int) -> int:
    """Little more than the engine needs, which it checks: a sum that symbolic sizes can be in."""
    return 8 * rows + rows // 8 + 20 * num_experts + 512


def _backward(
    grad_y: Tensor,
    x: Tensor,
    topk_weights: Tensor,
    gate_up: Tensor,
    gate_up_bias: Tensor | None,
    down: Tensor,
    down_bias: Tensor | None,
    hidden: Tensor,
    routing: Tensor,
    grad_x: Tensor | None,
    grad_topk_weights: Tensor | None,
    grad_gate_up: Tensor | None,
    grad_gate_up_bias: Tensor | None,
    grad_down: Tensor | None,
    grad_down_bias: Tensor | None,
    grad_hidden: Tensor | None,
    accumulate: bool,
    *options: Any,
) -> None:
    """The operator `local_experts_backward`; `grad_hidden` is scratch, which may be `hidden`."""
    grad_TH = dense(grad_y)
    grad_hidden_NG = _empty_like(hidden) if grad_hidden is None else grad_hidden
    context, config = context_of(grad_TH), _config(x, gate_up, down, options)
    *_, workspace_bytes, scratch_bytes = _sizes(context, config, *topk_weights.shape)
    engine.local_experts_backward(
        context,
        config,
        tuple(map(dense, (gate_up, gate_up_bias, down, down_bias))),
        grad_TH,
        dense(x),
        dense(topk_weights),
        routing,
        hidden,
        grad_hidden_NG,
        _activated(hidden, config, None if accumulate else grad_gate_up),
        grad_x,
        grad_topk_weights,
        (grad_gate_up, grad_gate_up_bias, grad_down, grad_down_bias),
        accumulate,
        _scratch(scratch_bytes, grad_y, grad_x),
        _bytes(workspace_bytes, grad_y),
    )


def _activated(hidden: Tensor, config: tuple, lender: Tensor | None) -> Tensor:
    """Scratch of [N, F], in the memory of a gradient that is written later where it has room."""
    shape = len(hidden), config[2]
    size = shape[0] * shape[1]
    if lender is None or lender.dtype != hidden.dtype or lender.numel() < size:
        return hidden.new_empty(shape)
    return lender.as_strided(shape, (shape[1], 1))


def _scratch(size: int, like: Tensor, lender: Tensor | None) -> Tensor:
    """Scratch bytes, in the memory of a gradient that is written later where it has room."""
    if lender is None or lender.nbytes < size:
        return _bytes(size, like)
    return lender.view(-1).view(torch.uint8)


_library.impl("local_experts", forward, "CompositeExplicitAutograd")
_library.impl("local_experts_backward", _backward, "CompositeExplicitAutograd")
torch.library.register_fake("autoep::local_experts", _forward_results, lib=_library)
torch.library.register_fake("autoep::local_experts_backward", lambda *_: None, lib=_library)


def _config(x: Tensor, gate_up: Tensor, down: Tensor, options: tuple) -> tuple:
    """`autoep_experts_config` by the sizes of the tensors."""
    ffn_size = down.shape[2 if options[2] == _OUT_IN else 1]
    return (gate_up.shape[0], x.shape[1], ffn_size, dtype_of(x), *options)


def dtype_of(x: Tensor) -> int:
    """The engine's number of the dtype that a GPU computes in."""
    return _DTYPES.get(x.dtype) or choice("x", dtype_name(x), GPU_DTYPES)


def dense(tensor: Tensor | None) -> Tensor | None:
    """As the engine takes it: row-major, outside of autograd."""
    if tensor is None:
        return None
    return (tensor.detach() if tensor.requires_grad else tensor).contiguous()


def _empty_like(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


def _bytes(count: int, like: Tensor) -> Tensor:
    """Scratch memory of a device; the allocator aligns it to more than the engine's 64 bytes."""
    return like.new_empty((count,), dtype=torch.uint8)


def check(**tensors: Any) -> None:
    """Checks what the engine cannot be asked, of tensors by their names."""
    for name, tensor in tensors.items():
        if type(tensor) in _PLAIN and tensor.dim() == _NDIMS.get(name, 2):
            continue
        if tensor is not None or name not in _OPTIONAL:
            raise _refusal(name, tensor)


def _refusal(name: str, tensor: Any) -> InvalidArgumentError:
    if not isinstance(tensor, torch.Tensor):
        return InvalidArgumentError(
            f"{name}: expected a torch.Tensor, as x is, got {type(tensor).__name__}"
        )
    if hasattr(tensor, "to_local"):
        return InvalidArgumentError(f"{name}: got a DTensor; pass its own part, {name}.to_local()")
    return InvalidArgumentError(
        f"{name}: expected {_NDIMS.get(name, 2)} dimensions, got shape {list(tensor.shape)}"
    )


def _check_buffers(weights: Weights, buffers: Buffers) -> None:
    for name, weight, buffer in zip(_WEIGHT_NAMES, weights, buffers, strict=True):
        if weight is None or not weight.requires_grad:
            continue
        fits = (
            isinstance(buffer, torch.Tensor)
            and buffer.dtype == torch.float32
            and buffer.shape == weight.shape
            and buffer.device == weight.device
            and buffer.is_contiguous()
        )
        if not fits:
            raise InvalidArgumentError(
                f"grad_buffers.{name}: expected a dense float32 tensor of shape"
                f" {list(weight.shape)} on {weight.device}, for {name} requires a gradient; got"
                f" {_described(buffer)}"
            )


def _described(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    return f"{value.dtype} of shape {list(value.shape)} on {value.device}"


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """What autocast makes of an argument; float64 is left to be refused."""
    castable = tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if castable else tensor
