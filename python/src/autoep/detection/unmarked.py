"""MoE layers without transformers' marks: of transformers 4, of remote code, of custom models.

The computation of such a layer is found by trying: each candidate that its weights allow is
computed with random numbers, and the one that agrees with the layer's own code is taken.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from autoep.detection import probe
from autoep.detection.conventions import (
    PLAIN_ACTIVATIONS,
    activation_candidates,
    family_of,
    known_activation,
)
from autoep.detection.names import USUAL, Names
from autoep.detection.scratch_copy import twin_of
from autoep.errors import InvalidArgumentError, ModelError, UnsupportedError
from autoep.layers.call_styles import CALLS
from autoep.layers.selection_bias import selection_bias
from autoep.layers.spec import BlockRouter, MoELayer, MoELayerSpec, Pieces, sizes_of

_ACTIVATIONS = ("act_fn", "activation_fn", "activation", "act")


def describe_unmarked(name: str, block: nn.Module, names: Names = USUAL) -> MoELayer | None:
    """Describes a block that has experts, from its computation.

    Args:
        name: The block's name in the model.
        block: Any module.
        names: The names of its parts, and other known facts about it.

    Returns:
        The layer; None for a module that is not a block of experts.

    Raises:
        ModelError: The engine cannot reproduce the block's computation.
    """
    has_forward = type(block).forward is not nn.Module.forward
    layers = _layers(name, block, names) if has_forward else None
    if layers is None:
        return None
    nearest, reason = float("inf"), "its choice of experts is of no known kind"
    try:
        for layer in layers:
            if names.score_apply not in (None, layer.spec.score_apply):
                continue
            error = _error_of(layer)
            if error <= probe.TOLERANCE:
                if layer.call == "block":
                    probe.check_training(layer)
                return layer
            if error < nearest:
                nearest, reason = error, f"the nearest differs by {error:.2g} of the norm"
    except probe.UnlikeError as unlike:
        reason = str(unlike)
    raise _refusal(name, block, reason)


def _error_of(layer: MoELayer) -> float:
    """Returns `probe.error_of`; infinity if it cannot be computed."""
    try:
        return probe.error_of(layer)
    except (probe.UnlikeError, InvalidArgumentError, UnsupportedError):
        return float("inf")  # it is called differently, or these options are incompatible


def _refusal(name: str, block: nn.Module, reason: str) -> ModelError:
    return ModelError(
        f"{name}: {type(block).__name__} has experts, but the engine cannot reproduce what it"
        f" computes ({reason}). Set expert_parallel.enabled to false to train it without expert"
        " parallelism."
    )


def _layers(name: str, block: nn.Module, names: Names) -> Iterable[MoELayer] | None:
    """Returns candidate layers for a block; None if it has no experts."""
    experts = getattr(block, names.experts, None)
    if isinstance(experts, nn.ModuleList) and len(experts) > 1:
        return _of_list(name, block, experts, names)
    if isinstance(experts, nn.Module) and names.weights:
        return _of_given(name, block, experts, names)
    if isinstance(experts, nn.Module) and _is_stacked(experts, "gate_up_proj", "down_proj"):
        return _of_stack(name, block, experts, names)
    if isinstance(experts, nn.Module) and hasattr(getattr(experts, "mlp", None), "v1"):
        return _of_rows(name, block, experts, names)
    if _is_stacked(block, "input_linear.weight", "output_linear.weight"):
        return _of_linears(name, block, names)
    return None


def _is_stacked(module: nn.Module, *paths: str) -> bool:
    try:
        return all(operator.attrgetter(path)(module).ndim == 3 for path in paths)
    except AttributeError:
        return False


def _of_stack(name: str, block: nn.Module, experts: nn.Module, names: Names) -> Iterator[MoELayer]:
    """Yields candidates for stacked weights under transformers' names, with any forward."""
    up, down = experts.gate_up_proj, experts.down_proj
    layout = "out_in" if up.shape[2] == down.shape[1] else "in_out"
    identity = up.shape[0] - down.shape[0]
    biased = hasattr(experts, "gate_up_proj_bias")
    plain = MoELayerSpec(
        family=family_of(experts),
        gate_up_bias="gate_up_proj_bias" if biased else None,
        down_bias="down_proj_bias" if biased else None,
        layout=layout,
        identity_experts=identity,
    )
    sizes = sizes_of(experts, plain, f"{name}.experts")
    specs = [dataclasses.replace(plain, **a) for a in activation_candidates(experts)]
    router = names.router_of(block)
    for spec, call in itertools.product(specs, CALLS):
        yield MoELayer(name, block, spec, router, experts, *sizes, call=call)
    for spec, apply in itertools.product(specs, ("after", "before")):
        applied = dataclasses.replace(spec, score_apply=apply)
        layer = MoELayer(name, block, applied, router, experts, *sizes, call="block")
        yield from _with_routings(layer, names)


def _of_list(
    name: str, block: nn.Module, experts: nn.ModuleList, names: Names
) -> Iterator[MoELayer]:
    """Yields candidates for experts in one module each."""
    pieces = _pieces(experts[0], names)
    if pieces is None:
        raise probe.UnlikeError(
            "its experts are not two or three linear maps with an activation between them, alike"
            " in training and in eval"
        )
    down = experts[0].get_submodule(pieces.down).weight
    sizes = (len(experts), *down.shape)
    spec = _spec_of_pieces(pieces, family_of(experts[0]))
    layer = MoELayer(name, block, spec, names.router_of(block), experts, *sizes, pieces=pieces)
    if hasattr(block, "moe"):
        yield dataclasses.replace(layer, call="moe")
    for apply in ("after", "before"):
        applied = dataclasses.replace(spec, score_apply=apply)
        block_layer = dataclasses.replace(layer, spec=applied, call="block")
        yield from _with_routings(block_layer, names)


def _of_given(name: str, block: nn.Module, experts: nn.Module, names: Names) -> Iterator[MoELayer]:
    """Yields candidates for stacked weights under given names: gate and up fused or separate."""
    *wide, down = (operator.attrgetter(part)(experts) for part in names.weights)
    if down.ndim != 3 or {weight.ndim for weight in wide} != {3}:
        return
    for transposed, act_fn in itertools.product((False, True), _activations_of(experts)):
        sizes = tuple(down.transpose(1, 2).shape if transposed else down.shape)
        rows = wide[0].shape[2 if transposed else 1]
        gate, up = names.weights[0], names.weights[1]
        if len(wide) == 1:
            gate, up = (None, gate) if rows == sizes[2] else (gate, gate)
        pieces = Pieces(gate, up, names.weights[-1], act_fn, stacked=True, transposed=transposed)
        spec = _spec_of_pieces(pieces, family_of(experts))
        for call, apply in itertools.product((*CALLS, "block"), ("after", "before")):
            applied = dataclasses.replace(spec, score_apply=apply)
            layer = MoELayer(
                name, block, applied, names.router_of(block), experts, *sizes, call, pieces=pieces
            )
            yield from _with_routings(layer, names) if call == "block" else [layer]


def _of_rows(name: str, block: nn.Module, experts: nn.Module, names: Names) -> Iterator[MoELayer]:
    """Yields candidates for DBRX: the experts' weights are the rows of two-dimensional ones."""
    mlp = experts.mlp
    pieces = Pieces("mlp.w1", "mlp.v1", "mlp.w2", mlp.activation_fn, rows=True)
    count = mlp.moe_num_experts
    sizes = (count, mlp.w1.shape[1], mlp.w1.shape[0] // count)
    spec = _spec_of_pieces(pieces, family_of(experts))
    for call in CALLS:
        layer = MoELayer(name, block, spec, names.router_of(block), experts, *sizes, call=call)
        yield dataclasses.replace(layer, pieces=pieces)


def _of_linears(name: str, block: nn.Module, names: Names) -> Iterator[MoELayer]:
    """Yields candidates for Granite of transformers 4 and JetMoe: two stacked maps in the block."""
    spec = MoELayerSpec(
        family=family_of(block),
        gate_up="input_linear.weight",
        down="output_linear.weight",
    )
    count, hidden_size, ffn_size = block.output_linear.weight.shape
    for fields in activation_candidates(block):
        layer = MoELayer(
            name,
            block,
            dataclasses.replace(spec, **fields),
            names.router_of(block),
            block,
            *(count, hidden_size, ffn_size),
            call="block",
        )
        yield from _with_routings(layer, names)


def _spec_of_pieces(pieces: Pieces, family: str) -> MoELayerSpec:
    holder = nn.Module()
    holder.act_fn = pieces.act_fn
    first = "up_proj" if pieces.gate is None else "gate_up_proj"
    return MoELayerSpec(
        family=family,
        gate_up=first,
        gate_up_bias=f"{first}_bias" if pieces.biases else None,
        down_bias="down_proj_bias" if pieces.biases else None,
        **known_activation(holder, gated=pieces.gate is not None),
    )


def _pieces(expert: nn.Module, names: Names) -> Pieces | None:
    """Finds the roles of an expert's linear maps, and its activation, by trying."""
    linears = [name for name, module in expert.named_modules() if isinstance(module, nn.Linear)]
    named = {name: expert.get_submodule(name) for name in linears}
    if len(linears) not in (2, 3) or len({m.bias is None for m in named.values()}) != 1:
        return None
    biases = named[linears[0]].bias is not None
    twin = twin_of(expert)
    x_TH = torch.randn(6, _inner(named), generator=torch.Generator().manual_seed(1))
    orders = [names.weights] if names.weights else itertools.permutations(linears)
    for order, act_fn in itertools.product(orders, _activations_of(expert)):
        gate, up, down = order if len(order) == 3 else (None, *order)
        try:
            with torch.no_grad():
                expected = twin(x_TH)
                found = _expert(twin, gate, up, down, act_fn, x_TH)
        except Exception:  # the shapes do not fit: another order
            continue
        if found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5):
            alike = torch.allclose(_in_training(twin, x_TH), expected, atol=1e-5)
            return Pieces(gate, up, down, act_fn, biases) if alike else None
    return None


def _in_training(twin: nn.Module, x_TH: torch.Tensor) -> torch.Tensor:
    """Returns an expert's result in training, keeping the script's random state."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return twin.train()(x_TH)


def _inner(linears: dict[str, nn.Linear]) -> int:
    """Returns H: the input size of all linear maps but one."""
    taken = [linear.in_features for linear in linears.values()]
    given = [linear.out_features for linear in linears.values()]
    return max(set(taken), key=lambda size: (taken.count(size), -given.count(size)))


def _expert(
    expert: nn.Module,
    gate: str | None,
    up: str,
    down: str,
    act_fn: Callable[[torch.Tensor], torch.Tensor],
    x_TH: torch.Tensor,
) -> torch.Tensor:
    up_TF = expert.get_submodule(up)(x_TH)
    hidden_TF = act_fn(up_TF) if gate is None else act_fn(expert.get_submodule(gate)(x_TH)) * up_TF
    return expert.get_submodule(down)(hidden_TF)


def _activations_of(expert: nn.Module) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    own = [getattr(expert, name, None) for name in _ACTIVATIONS]
    return [act for act in own if callable(act)] or [
        *PLAIN_ACTIVATIONS.values(),
        torch.nn.functional.relu,
    ]


def _with_routings(layer: MoELayer, names: Names) -> Iterator[MoELayer]:
    """Yields the layer with each choice of experts that its block may make."""
    block = layer.block
    top_k = names.top_k_of(block, layer.router)
    if layer.router is None or not 1 <= top_k <= layer.num_experts:
        return
    shared = names.shared_of(block)
    gate = f"{shared}_gate" if hasattr(block, f"{shared}_gate") else None
    jitters = [value for name, value in vars(block).items() if "jitter" in name and value]
    plain = BlockRouter(
        top_k=top_k,
        shared=shared,
        shared_gate=gate,
        output_bias="bias" if isinstance(getattr(block, "bias", None), nn.Parameter) else None,
        jitter=jitters[0] if jitters else 0.0,
    )
    for flat in (True, False):
        twin = probe.block_twin(dataclasses.replace(layer, routing=plain))
        twin = dataclasses.replace(twin, routing=dataclasses.replace(plain, flat=flat))
        try:
            said = probe.router_outputs_of(twin)
            returns = _returned(twin, said)
        except probe.UnlikeError:
            continue
        for logits, choice in itertools.product(_logits(said, layer), _choices(layer, names)):
            routing = dataclasses.replace(
                plain, flat=flat, returns=returns, logits=logits, **choice
            )
            yield dataclasses.replace(layer, routing=routing)
        return


def _logits(said: tuple[object, ...], layer: MoELayer) -> list[int]:
    """Returns the indices of a router's outputs that have one number per expert."""
    shapes = [getattr(part, "shape", ())[1:] for part in said]
    return [index for index, shape in enumerate(shapes) if shape == (layer.num_experts,)]


def _choices(layer: MoELayer, names: Names) -> Iterator[dict[str, object]]:
    scales = {1.0, *_numbers(layer.block, ("routed_scaling_factor", "route_scale"))}
    biased = selection_bias(layer.block, layer.num_experts) is not None
    if not names.routing:
        yield {"score": "given"}
    for score, normalize, scale in itertools.product(
        ("softmax", "topk_softmax", "sigmoid"), (True, False), sorted(scales)
    ):
        choice = {"score": score, "normalize": normalize, "scale": scale, "biased": biased}
        yield choice | names.routing


def _numbers(block: nn.Module, names: tuple[str, ...]) -> set[float]:
    values = {getattr(block, name, None) for name in names}
    return {float(value) for value in values if type(value) in (int, float)}


def _returned(twin: MoELayer, said: tuple[object, ...]) -> int | None:
    """Returns the index of the router's output that a block also returns, or None."""
    x_TH = probe.random_tokens(twin.hidden_size)
    with torch.no_grad():
        own = probe.run_own(type(twin.block).forward, twin.block, x_TH.unsqueeze(0))
    if not isinstance(own, tuple):
        return None
    for index, part in enumerate(said):
        if isinstance(part, torch.Tensor) and part.numel() == own[1].numel():
            if torch.allclose(part.flatten(), own[1].flatten(), atol=1e-6):
                return index
    raise probe.UnlikeError("its second output is none of its router's outputs")
