"""Comparing a layer's description with the model's own code, on random numbers.

Both compute a few tokens with small random weights, on a copy of the module that shares no tensor
with the model. This exposes what a description omits (a bias, a norm, another activation, layout
or choice of experts) before a model is changed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from autoep.detection.scratch_copy import Shape, twin_of
from autoep.distributed.communicator import Communicator
from autoep.errors import ModelError
from autoep.layers.block import BlockForward, router_outputs
from autoep.layers.call_styles import CALLS
from autoep.layers.experts import run_experts
from autoep.layers.spec import MoELayer
from autoep.layers.stacking import StackedExperts, stacked_weights

TOLERANCE = 1e-4
# Upper bounds of the sizes computed. The other sizes are the model's: modules may store them.
_TOKENS, _TOP_K, _FFN_SIZE = 8, 2, 4
_CROWD = 56  # identical tokens


class UnlikeError(Exception):
    """The model's own code cannot be run as described, or returns something else."""


def check_specs(layers: list[MoELayer]) -> None:
    """Raises if a layer does not compute what its description says.

    Of layers with the same class, description and sizes, one is computed.

    Raises:
        ModelError: The numbers differ, or the layer's own code cannot be run.
    """
    alike = {
        (type(each.experts), each.spec, each.routing, each.num_experts, each.hidden_size): each
        for each in reversed(layers)
    }
    for layer in alike.values():
        try:
            error = error_of(layer)
        except UnlikeError as unlike:
            raise unlike_error(layer, str(unlike)) from unlike
        if not error <= TOLERANCE:
            how = f"on random numbers its result differs by {error:.2g} of its norm"
            raise unlike_error(layer, how)


def random_tokens(hidden_size: int) -> torch.Tensor:
    """Returns [T, H] of several magnitudes, the same each time: from small to beyond any limit."""
    generator = torch.Generator().manual_seed(1)
    sizes_T = torch.logspace(-0.5, 2, _TOKENS)
    return torch.randn(_TOKENS, hidden_size, generator=generator) * sizes_T.unsqueeze(1)


def unlike_error(layer: MoELayer, how: str) -> ModelError:
    """Returns the error for a layer that the engine cannot replace."""
    return ModelError(
        f"{layer.name}: {type(layer.experts).__name__} does not compute what its layout and its"
        f" activation imply, so the engine cannot replace it: {how}. Set"
        " expert_parallel.enabled to false to train it without expert parallelism."
    )


def error_of(layer: MoELayer) -> float:
    """Returns the largest relative error of the engine's result over the tokens.

    Raises:
        UnlikeError: The model's own code cannot be run this way.
    """
    generator = torch.Generator().manual_seed(1)
    x_TH = random_tokens(layer.hidden_size)
    if layer.call == "block":  # beyond ±4 several experts have the same score, 0 or 1
        x_TH = x_TH.clamp(-4, 4)
    with torch.no_grad():
        expected, found = _both(layer, x_TH, generator)
    if not isinstance(expected, torch.Tensor) or expected.numel() != found.numel():
        shape = getattr(expected, "shape", type(expected).__name__)
        raise UnlikeError(f"it returns {shape}")
    found, expected = found.view(x_TH.shape), expected.view(x_TH.shape)
    errors_T = (found - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-30)
    return errors_T.max().item()


def check_training(layer: MoELayer) -> None:
    """Checks a whole block in training: its result, its gradients, and that it stores nothing.

    `error_of` does not see dropout, noise on the scores, weights without a gradient, tokens
    dropped beyond a capacity, or losses stored on the module.

    Raises:
        UnlikeError: The engine's forward would differ; the text says how.
    """
    twin = block_twin(layer)
    twin.block.train()
    twin.router.requires_grad_(True)
    engine = BlockForward(twin, layer.routing, _engine(twin))
    before = _kept_tensors(twin.block)
    expected = _training_outcome(functools.partial(type(layer.block).forward, twin.block), twin)
    if kept := [
        name for name, tensor in _kept_tensors(twin.block).items() if tensor != before.get(name)
    ]:
        raise UnlikeError(
            f"its forward stores `{kept[0]}` on the module, and the engine's would not"
        )
    found = _training_outcome(engine, twin)
    floor = 0.1 * expected[0].norm()  # a gradient may be zero
    for what, mine, own in zip(
        ("result", "gradient", "router's gradient"), found, expected, strict=True
    ):
        if not (mine - own).norm() <= TOLERANCE * own.norm().clamp(min=floor):
            raise UnlikeError(
                f"in training its {what} differs, as with dropout, noise on the scores, weights"
                " without a gradient or a capacity of each expert"
            )


def _kept_tensors(block: nn.Module) -> dict[str, tuple[int, int]]:
    """Returns the identity and version of each tensor of a block other than its parameters."""
    held = {**vars(block), **dict(block.named_buffers(recurse=False))}
    return {n: (id(t), t._version) for n, t in held.items() if isinstance(t, torch.Tensor)}


def _training_outcome(function: Callable[..., Any], twin: MoELayer) -> tuple[torch.Tensor, ...]:
    """Returns the result [T, H] in training, and the gradients of tokens and router weights."""
    some_TH = random_tokens(twin.hidden_size).clamp(-4, 4)
    crowd_TH = some_TH[2:3].expand(_CROWD, -1)  # their experts get more than an equal share
    x_TH = torch.cat([some_TH, crowd_TH]).requires_grad_()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        # Some blocks modify their input.
        y_TH = first(run_own(function, x_TH.unsqueeze(0).clone())).view(x_TH.shape)
        direction_TH = torch.randn(y_TH.shape)
    weights = list(twin.router.parameters())
    of_x, *of_weights = torch.autograd.grad(
        y_TH, [x_TH, *weights], direction_TH, allow_unused=True, materialize_grads=True
    )
    return y_TH.detach(), of_x, torch.cat([gradient.flatten() for gradient in of_weights])


def _both(layer: MoELayer, x_TH: torch.Tensor, generator: torch.Generator) -> tuple[Any, Any]:
    if layer.call == "block":
        twin = block_twin(layer)
        own = run_own(type(layer.block).forward, twin.block, x_TH.unsqueeze(0))
        return first(own), first(BlockForward(twin, layer.routing, _engine(twin))(x_TH[None]))
    if layer.call == "moe":
        twin = block_twin(layer)
        arguments = (x_TH, *_choices(layer, generator))
        own = run_own(type(layer.block).moe, twin.block, *arguments)
    else:
        shapes = _cut_shapes(layer)
        experts = twin_of(layer.experts, shapes)
        _cut_numbers(experts, layer)
        twin = dataclasses.replace(layer, experts=experts)
        arguments = (x_TH, *_choices(layer, generator))
        forward = type(layer.experts).forward
        forward = getattr(forward, "__wrapped__", forward)  # not transformers' dispatcher
        own = run_own(forward, experts, *CALLS[layer.call].send(*arguments, layer.num_experts))
    return own, _engine(twin)(*arguments)


def run_own(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls the model's own code.

    Raises:
        UnlikeError: The code raises.
    """
    try:
        return function(*arguments)
    except Exception as error:
        raise UnlikeError(f"calling it this way fails: {error}") from error


def first(output: Any) -> Any:
    """Returns a block's result without the outputs of its router."""
    return output[0] if isinstance(output, tuple) else output


def block_twin(layer: MoELayer) -> MoELayer:
    """Returns the layer on a scratch copy of its block."""
    path = _path(layer.block, layer.experts)
    shapes = {f"{path}{name}": shape for name, shape in _cut_shapes(layer).items()}
    shared = layer.routing.shared if layer.routing is not None else None
    plain = [] if shared is None else [getattr(layer.block, shared)]
    twin = twin_of(layer.block, shapes, plain)
    router = None if layer.router is None else _at(twin, _path(layer.block, layer.router))
    return dataclasses.replace(layer, block=twin, experts=_at(twin, path), router=router)


def router_outputs_of(twin: MoELayer) -> tuple[Any, ...]:
    """Returns the outputs of a copy's router for random tokens."""
    x_TH = random_tokens(twin.hidden_size)
    x = x_TH if twin.routing.flat else x_TH.unsqueeze(0)
    with torch.no_grad():
        return run_own(functools.partial(router_outputs, twin.router), x)


def _engine(twin: MoELayer) -> Callable[..., torch.Tensor]:
    experts = twin.experts
    if twin.pieces is not None:
        weights = stacked_weights(experts, twin.pieces, twin.num_experts)
        experts = StackedExperts(weights, twin.pieces.act_fn, trained=False)
    return functools.partial(
        run_experts,
        experts,
        num_experts=twin.num_experts,
        comm=Communicator.alone(),
        spec=twin.spec,
    )


def _choices(layer: MoELayer, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns topk_idx and topk_weights, [T, K]."""
    count = layer.num_experts + layer.spec.identity_experts
    weights_TK, idx_TK = torch.rand(_TOKENS, count, generator=generator).topk(min(_TOP_K, count))
    return idx_TK, weights_TK


def _cut_shapes(layer: MoELayer) -> dict[str, Shape]:
    """Returns the shapes of the experts' weights with a smaller F."""
    ffn_size = min(layer.ffn_size, _FFN_SIZE)
    pieces = layer.pieces
    if pieces is None:
        return layer.spec.weight_shapes(layer.num_experts, layer.hidden_size, ffn_size)
    parts = [part for part in (pieces.gate, pieces.up, pieces.down) if part is not None]
    if pieces.rows:
        return dict.fromkeys(parts, (layer.num_experts * ffn_size, layer.hidden_size))
    if pieces.stacked or layer.ffn_size == layer.hidden_size:
        return {}
    return {
        name: tuple(ffn_size if size == layer.ffn_size else size for size in parameter.shape)
        for name, parameter in layer.experts.named_parameters()
    }


def _cut_numbers(experts: nn.Module, layer: MoELayer) -> None:
    """Sets the smaller F on a copy that views its weights by F."""
    if layer.pieces is not None and layer.pieces.rows:
        for module in experts.modules():
            for name, value in vars(module).items():
                if "ffn" in name and value == layer.ffn_size:
                    setattr(module, name, min(layer.ffn_size, _FFN_SIZE))


def _path(block: nn.Module, module: nn.Module) -> str:
    """Returns the path of a module in a block, with a trailing dot; empty for the block itself."""
    return next(f"{name}." if name else "" for name, m in block.named_modules() if m is module)


def _at(block: nn.Module, path: str) -> nn.Module:
    return block.get_submodule(path.removesuffix("."))
