"""MoE layers without transformers' marks: of transformers 4, of remote code, of one's own.

What such a layer computes is found by trying: each way that its weights allow is computed with
random numbers, and the one that gives what the layer's own code gives is taken.
"""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from autoep.calls import CALLS
from autoep.detection import probe
from autoep.detection.conventions import (
    PLAIN_ACTIVATIONS,
    activation_candidates,
    family_of,
    known_activation,
)
from autoep.detection.spec import MoELayer, MoELayerSpec, Pieces, Routing, sizes_of
from autoep.detection.twin import twin_of
from autoep.errors import ModelError
from autoep.routing.bias import selection_bias

_ROUTERS = ("gate", "router")
_SHARED = ("shared_expert", "shared_experts", "shared_mlp")
_ACTIVATIONS = ("act_fn", "activation_fn", "activation", "act")
_TOP_KS = ("top_k", "num_experts_per_tok")


def describe_unmarked(name: str, block: nn.Module) -> MoELayer | None:
    """Describes a block that has experts, by what it computes.

    Args:
        name: The block's name in the model.
        block: Any module.

    Returns:
        The layer; None for a module that is no block of experts.

    Raises:
        ModelError: It is one, and nothing that the engine can do is what it computes.
    """
    has_forward = type(block).forward is not nn.Module.forward
    layers = _layers(name, block) if has_forward else None
    if layers is None:
        return None
    nearest, reason = float("inf"), "its choice of experts is of no known kind"
    for layer in layers:
        try:
            error = probe.error_of(layer)
        except probe.UnlikeError:
            continue
        if error <= probe.TOLERANCE:
            return layer
        if error < nearest:
            nearest, reason = error, f"the nearest differs by {error:.2g} of the norm"
    raise ModelError(
        f"{name}: {type(block).__name__} has experts, but what it computes is nothing that the"
        f" engine can stand in for ({reason}). Set expert_parallel.enabled to false to train it"
        " without expert parallelism."
    )


def _layers(name: str, block: nn.Module) -> Iterable[MoELayer] | None:
    """The layers that a block may be; None where it has no experts."""
    experts = getattr(block, "experts", None)
    if isinstance(experts, nn.ModuleList) and len(experts) > 1:
        return _of_list(name, block, experts)
    if isinstance(experts, nn.Module) and _is_stacked(experts, "gate_up_proj", "down_proj"):
        return _of_stack(name, block, experts)
    if isinstance(experts, nn.Module) and hasattr(getattr(experts, "mlp", None), "v1"):
        return _of_rows(name, block, experts)
    if _is_stacked(block, "input_linear.weight", "output_linear.weight"):
        return _of_linears(name, block)
    return None


def _is_stacked(module: nn.Module, *paths: str) -> bool:
    try:
        return all(operator.attrgetter(path)(module).ndim == 3 for path in paths)
    except AttributeError:
        return False


def _of_stack(name: str, block: nn.Module, experts: nn.Module) -> Iterator[MoELayer]:
    """Stacked weights under transformers' names, with a forward of any kind."""
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
    router = _router(block)
    for spec, call in itertools.product(specs, CALLS):
        yield MoELayer(name, block, spec, router, experts, *sizes, call=call)
    for spec, apply in itertools.product(specs, ("after", "before")):
        applied = dataclasses.replace(spec, score_apply=apply)
        layer = MoELayer(name, block, applied, router, experts, *sizes, call="block")
        yield from _with_routings(layer)


def _of_list(name: str, block: nn.Module, experts: nn.ModuleList) -> Iterator[MoELayer]:
    """A module for each expert."""
    pieces = _pieces(experts[0])
    if pieces is None:
        return
    down = experts[0].get_submodule(pieces.down).weight
    sizes = (len(experts), *down.shape)
    spec = _spec_of_pieces(pieces, family_of(experts[0]))
    layer = MoELayer(name, block, spec, _router(block), experts, *sizes, pieces=pieces)
    if hasattr(block, "moe"):
        yield dataclasses.replace(layer, call="moe")
    yield from _with_routings(dataclasses.replace(layer, call="block"))


def _of_rows(name: str, block: nn.Module, experts: nn.Module) -> Iterator[MoELayer]:
    """DBRX: the experts' weights are the rows of two-dimensional ones."""
    mlp = experts.mlp
    pieces = Pieces("mlp.w1", "mlp.v1", "mlp.w2", mlp.activation_fn, rows=True)
    count = mlp.moe_num_experts
    sizes = (count, mlp.w1.shape[1], mlp.w1.shape[0] // count)
    spec = _spec_of_pieces(pieces, family_of(experts))
    for call in CALLS:
        layer = MoELayer(name, block, spec, _router(block), experts, *sizes, call=call)
        yield dataclasses.replace(layer, pieces=pieces)


def _of_linears(name: str, block: nn.Module) -> Iterator[MoELayer]:
    """Granite of transformers 4 and JetMoe: two stacked linear maps in the block itself."""
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
            _router(block),
            block,
            *(count, hidden_size, ffn_size),
            call="block",
        )
        yield from _with_routings(layer)


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


def _pieces(expert: nn.Module) -> Pieces | None:
    """Which of an expert's linear maps is which, and its activation; found by trying."""
    linears = [name for name, module in expert.named_modules() if isinstance(module, nn.Linear)]
    named = {name: expert.get_submodule(name) for name in linears}
    if len(linears) not in (2, 3) or len({m.bias is None for m in named.values()}) != 1:
        return None
    biases = named[linears[0]].bias is not None
    twin = twin_of(expert)
    x_TH = torch.randn(6, _inner(named), generator=torch.Generator().manual_seed(1))
    for order, act_fn in itertools.product(
        itertools.permutations(linears), _activations_of(expert)
    ):
        gate, up, down = order if len(order) == 3 else (None, *order)
        try:
            with torch.no_grad():
                expected = twin(x_TH)
                found = _expert(twin, gate, up, down, act_fn, x_TH)
        except Exception:  # the shapes do not fit: another order
            continue
        if found.shape == expected.shape and torch.allclose(found, expected, atol=1e-5):
            return Pieces(gate, up, down, act_fn, biases)
    return None


def _inner(linears: dict[str, nn.Linear]) -> int:
    """H: what all linear maps but one take."""
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


def _router(block: nn.Module) -> nn.Module | None:
    return next((getattr(block, name) for name in _ROUTERS if hasattr(block, name)), None)


def _with_routings(layer: MoELayer) -> Iterator[MoELayer]:
    """The layer with each choice of experts that its block may make."""
    block = layer.block
    places = itertools.product(_TOP_KS, (block, layer.router))
    top_k = next((getattr(m, name) for name, m in places if hasattr(m, name)), 0)
    if layer.router is None or not 1 <= top_k <= layer.num_experts:
        return
    shared = next((name for name in _SHARED if getattr(block, name, None) is not None), None)
    gate = f"{shared}_gate" if hasattr(block, f"{shared}_gate") else None
    jitters = [value for name, value in vars(block).items() if "jitter" in name and value]
    plain = Routing(
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
            said = probe.router_says(twin)
            returns = _returned(twin, said)
        except probe.UnlikeError:
            continue
        for logits, choice in itertools.product(_logits(said, layer), _choices(layer)):
            routing = dataclasses.replace(
                plain, flat=flat, returns=returns, logits=logits, **choice
            )
            yield dataclasses.replace(layer, routing=routing)
        return


def _logits(said: tuple[object, ...], layer: MoELayer) -> list[int]:
    """Which of a router's outputs have a number for each expert."""
    shapes = [getattr(part, "shape", ())[1:] for part in said]
    return [index for index, shape in enumerate(shapes) if shape == (layer.num_experts,)]


def _choices(layer: MoELayer) -> Iterator[dict[str, object]]:
    scales = {1.0, *_numbers(layer.block, ("routed_scaling_factor", "route_scale"))}
    biased = selection_bias(layer.block, layer.num_experts) is not None
    yield {"score": "given"}
    for score, normalize, scale in itertools.product(
        ("softmax", "topk_softmax", "sigmoid"), (True, False), sorted(scales)
    ):
        yield {"score": score, "normalize": normalize, "scale": scale, "biased": biased}


def _numbers(block: nn.Module, names: tuple[str, ...]) -> set[float]:
    values = {getattr(block, name, None) for name in names}
    return {float(value) for value in values if type(value) in (int, float)}


def _returned(twin: MoELayer, said: tuple[object, ...]) -> int | None:
    """Which of the router's outputs a block returns beside its own."""
    x_TH = probe.random_tokens(twin.hidden_size)
    with torch.no_grad():
        own = probe.run_own(type(twin.block).forward, twin.block, x_TH.unsqueeze(0))
    if not isinstance(own, tuple):
        return None
    for index, part in enumerate(said):
        if isinstance(part, torch.Tensor) and part.numel() == own[1].numel():
            if torch.allclose(part.flatten(), own[1].flatten(), atol=1e-6):
                return index
    raise probe.UnlikeError("what it returns beside its result is not what its router says")
