"""What a MoE layer is to the engine: the maths of its experts, and where its parts are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoep.errors import ModelError
from autoep.functional import Activation, Computing, Gate, Layout, ScoreApply

if TYPE_CHECKING:
    import torch
    from torch import nn

_COMPUTING = tuple(Computing.__annotations__)


@dataclass(frozen=True)
class MoELayerSpec:
    """What the experts of a layer compute, and the names of their weights.

    expert(x) = post_norm(down(activation(gate_up(x) + bias)) + bias). The weights are stacked:
    [e, G, H] and [e, H, F] for the layout "out_in", transposed for "in_out".

    Attributes:
        family: Where it comes from: the `model_type` of the experts' config, or a class.
        gate_up: The experts' parameter that multiplies the input; a dotted path is allowed, as
            in all that follow.
        down: The parameter that gives the output.
        gate_up_bias: [e, G]; None for experts without biases.
        down_bias: [e, H].
        gate: How gate and up lie in gate_up.
        layout: How a weight lies.
        score_apply: Whether a token's weight multiplies an expert's output or its input.
        activation: The engine's name of it; None for one that the engine does not have: then the
            experts' own function computes it, between the engine's products.
        swiglu_alpha: Of "clamped_swiglu".
        swiglu_limit: Of the clamped activations.
        post_norm: The experts' module that each output goes through before its weight.
        identity_experts: How many experts there are besides, which return what they are given.
    """

    family: str
    gate_up: str = "gate_up_proj"
    down: str = "down_proj"
    gate_up_bias: str | None = None
    down_bias: str | None = None
    gate: Gate = "concatenated"
    layout: Layout = "out_in"
    score_apply: ScoreApply = "after"
    activation: Activation | None = "silu"
    swiglu_alpha: float = 1.702
    swiglu_limit: float = 7.0
    post_norm: str | None = None
    identity_experts: int = 0

    def weight_names(self) -> list[str]:
        """The parameters that have a part for each expert: those that are sharded."""
        names = (self.gate_up, self.gate_up_bias, self.down, self.down_bias)
        return [name for name in names if name is not None]

    def weight_shapes(
        self, num_experts: int, hidden_size: int, ffn_size: int
    ) -> dict[str, tuple[int, ...]]:
        """The shapes of those parameters, by name."""
        wide = ffn_size if self.gate == "none" else 2 * ffn_size
        shapes = {
            self.gate_up: (num_experts, wide, hidden_size),
            self.down: (num_experts, hidden_size, ffn_size),
        }
        if self.layout == "in_out":
            shapes = {name: (e, i, o) for name, (e, o, i) in shapes.items()}
        biases = {
            self.gate_up_bias: (num_experts, wide),
            self.down_bias: (num_experts, hidden_size),
        }
        return shapes | {name: shape for name, shape in biases.items() if name is not None}

    def computing(self) -> Computing:
        """The options of `functional.experts`, for experts that the engine computes as a whole."""
        return {name: getattr(self, name) for name in _COMPUTING}

    def fused(self) -> bool:
        """Whether the engine computes an expert as a whole."""
        return self.activation is not None and self.post_norm is None


@dataclass(frozen=True)
class Routing:
    """How a block chooses experts, where its own forward does it.

    Attributes:
        top_k: K.
        score: As in `functional.route`; "given" where the router returns the weights, [T, E], of
            which those not chosen are zero.
        normalize: Whether the weights are divided by their sum.
        scale: Multiplies the weights.
        num_groups: The groups of experts; 1 for none.
        topk_groups: The groups that a token may use.
        flat: Whether the router is given the tokens as [T, H], not as the block is.
        biased: Whether the block has a bias that is added for the choice only.
        logits: Which of the router's outputs the choice is made of.
        returns: Which of them the block returns beside its own; None for none.
        shared: The block's attribute of an expert for all tokens; None for none.
        shared_gate: The attribute of what weighs that one, through a sigmoid; None for none.
        output_bias: The attribute of what is added to the output; None for none.
        jitter: The noise on the tokens in training; 0 for none.
    """

    top_k: int
    score: str = "softmax"
    normalize: bool = False
    scale: float = 1.0
    num_groups: int = 1
    topk_groups: int = 1
    flat: bool = True
    biased: bool = False
    logits: int = 0
    returns: int | None = None
    shared: str | None = None
    shared_gate: str | None = None
    output_bias: str | None = None
    jitter: float = 0.0


@dataclass(frozen=True)
class Pieces:
    """The weights of experts that are not stacked.

    Attributes:
        gate: The linear map of each expert that the activation is applied to, by its path; None
            where there is no gate.
        up: The one that is multiplied with it.
        down: The one that gives the output.
        act_fn: The activation.
        biases: Whether these linear maps have biases.
        rows: Whether the weights of all experts are the rows of parameters, [E F, H] each, of
            which the paths are then.
        stacked: Whether they are parameters [E, out, in]; one with gate and up has both paths.
        transposed: Whether those are [E, in, out].
    """

    gate: str | None
    up: str
    down: str
    act_fn: Callable[[torch.Tensor], torch.Tensor]
    biases: bool = False
    rows: bool = False
    stacked: bool = False
    transposed: bool = False


@dataclass(frozen=True)
class MoELayer:
    """A MoE layer that was found in a model.

    Attributes:
        name: The name in the model of the module that the experts and their router are in.
        block: That module.
        spec: What the experts compute.
        router: The block's router; None where there is none of a known name.
        experts: The module whose forward is replaced.
        num_experts: E.
        hidden_size: H of the experts (of a latent space, where there is one).
        ffn_size: F.
        call: How the block calls the experts: a name in `autoep.layers.call_styles`, "moe" for its
            method of that name, or "block" where there is no such call, and the block's forward is
            replaced.
        routing: How it chooses them, for "block".
        pieces: Where the weights are that are yet to be stacked; None for stacked ones.
    """

    name: str
    block: nn.Module
    spec: MoELayerSpec
    router: nn.Module | None
    experts: nn.Module
    num_experts: int
    hidden_size: int
    ffn_size: int
    call: str = "routed"
    routing: Routing | None = None
    pieces: Pieces | None = None

    def weight_names(self) -> list[str]:
        """The experts' parameters that are sharded, once they are stacked."""
        return self.spec.weight_names()

    def parameter_names(self) -> list[str]:
        """The experts' parameters as they are."""
        if self.pieces is None:
            return self.weight_names()
        return [name for name, _ in self.experts.named_parameters()]


def own_activation(experts: nn.Module, gate: Gate) -> Callable[[torch.Tensor], torch.Tensor]:
    """The experts' own function of the pre-activation, [R, G] to [R, F]."""
    if gate == "none":
        return experts.act_fn
    return getattr(experts, "_apply_gate", None) or functools.partial(_apply_gate, experts)


def _apply_gate(experts: nn.Module, hidden_RG: torch.Tensor) -> torch.Tensor:
    gates_RF, ups_RF = hidden_RG.chunk(2, dim=-1)
    return experts.act_fn(gates_RF) * ups_RF


def sizes_of(experts: nn.Module, spec: MoELayerSpec, name: str) -> tuple[int, int, int]:
    """E, H and F, by the weight `down`; all others must agree, and be known."""
    # PEFT moves a parameter for the time of a forward, and puts a computed one in its place.
    shapes = {
        weight.removeprefix("parametrizations.").removesuffix(".original"): tuple(parameter.shape)
        for weight, parameter in experts.named_parameters()
    }
    down = shapes.get(spec.down, ())
    if len(down) != 3:
        raise ModelError(
            f"{name}: expected `{spec.down}` with three dimensions; it has {list(down)}"
        )
    sizes = down if spec.layout == "out_in" else (down[0], down[2], down[1])
    for weight, expected in spec.weight_shapes(*sizes).items():
        with_identities = (expected[0] + spec.identity_experts, *expected[1:])
        if shapes.get(weight) not in (expected, with_identities):
            raise ModelError(
                f"{name}: `{weight}` is {list(shapes.get(weight, ()))}, but `{spec.down}` of"
                f" {list(down)} goes with {list(expected)}"
            )
    known = (*spec.weight_names(), f"{spec.post_norm}.")
    if unknown := sorted(weight for weight in shapes if not weight.startswith(known)):
        raise ModelError(
            f"{name}: it has parameters of unknown use, {', '.join(unknown)}, beside"
            f" {', '.join(spec.weight_names())}: leaving them out would change what it computes"
        )
    return sizes
