"""The description of a MoE layer: the maths of its experts, and its parts."""

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
    """The computation of a layer's experts, and the names of their weights.

    expert(x) = post_norm(down(activation(gate_up(x) + bias)) + bias). The weights are stacked:
    [e, G, H] and [e, H, F] for the layout "out_in", transposed for "in_out".

    Attributes:
        family: The origin: the `model_type` of the experts' config, or a class.
        gate_up: The parameter that multiplies the input. This and all names below may be dotted
            paths.
        down: The parameter that produces the output.
        gate_up_bias: [e, G]; None for experts without biases.
        down_bias: [e, H].
        gate: The layout of gate and up in gate_up.
        layout: The layout of a weight.
        score_apply: Whether a token's weight multiplies an expert's output or its input.
        activation: The engine's name for it; None if the engine does not have it, and the experts'
            own function runs between the engine's products.
        swiglu_alpha: For "clamped_swiglu".
        swiglu_limit: For the clamped activations.
        post_norm: The submodule of the experts applied to each output before its weight.
        identity_experts: The number of additional experts, which return their input.
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
        """Returns the names of the parameters with a slice per expert, which are sharded."""
        names = (self.gate_up, self.gate_up_bias, self.down, self.down_bias)
        return [name for name in names if name is not None]

    def weight_shapes(
        self, num_experts: int, hidden_size: int, ffn_size: int
    ) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of those parameters, by name."""
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
        """Returns the options of `functional.experts`, for experts computed as a whole."""
        return {name: getattr(self, name) for name in _COMPUTING}

    def fused(self) -> bool:
        """Whether the engine computes an expert as a whole."""
        return self.activation is not None and self.post_norm is None


@dataclass(frozen=True)
class BlockRouter:
    """The choice of experts by a block whose own forward makes it.

    Attributes:
        top_k: K.
        score: As in `functional.route`; "given" if the router returns the weights [T, E], which
            are zero for experts that are not chosen.
        normalize: Whether the weights are divided by their sum.
        scale: Multiplies the weights.
        num_groups: The groups of experts; 1 for none.
        topk_groups: The groups that a token may use.
        flat: Whether the router receives the tokens as [T, H] rather than in the block's shape.
        biased: Whether the block has a bias that is added for the selection only.
        logits: The index of the router's output from which the choice is made.
        returns: The index of the router's output that the block also returns; None for none.
        shared: The block's attribute with an expert for all tokens; None for none.
        shared_gate: The attribute with the gate of that expert, through a sigmoid; None for none.
        output_bias: The attribute that is added to the output; None for none.
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
        gate: The path of each expert's linear map to which the activation is applied; None without
            a gate.
        up: The path of the linear map whose output multiplies the gate's.
        down: The path of the linear map that produces the output.
        act_fn: The activation.
        biases: Whether these linear maps have biases.
        rows: Whether the paths are those of parameters [E F, H] each, whose rows are the weights
            of all experts.
        stacked: Whether the paths are those of parameters [E, out, in]; one that contains gate and
            up has both paths.
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
    """A MoE layer found in a model.

    Attributes:
        name: The name in the model of the module that contains the experts and their router.
        block: That module.
        spec: The computation of the experts.
        router: The block's router; None if no known name matches.
        experts: The module whose forward is replaced.
        num_experts: E.
        hidden_size: H of the experts (of a latent space, if there is one).
        ffn_size: F.
        call: The way in which the block calls the experts: a name in `autoep.layers.call_styles`,
            "moe" for its method of that name, or "block" if there is no such call and the block's
            forward is replaced.
        routing: The block's choice of experts, for "block".
        pieces: The weights that are still to be stacked; None for stacked ones.
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
    routing: BlockRouter | None = None
    pieces: Pieces | None = None

    def weight_names(self) -> list[str]:
        """Returns the names of the experts' sharded parameters, once they are stacked."""
        return self.spec.weight_names()

    def parameter_names(self) -> list[str]:
        """Returns the current names of the experts' parameters."""
        if self.pieces is None:
            return self.weight_names()
        return [name for name, _ in self.experts.named_parameters()]


def own_activation(experts: nn.Module, gate: Gate) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the experts' own function of the pre-activation, [R, G] to [R, F]."""
    if gate == "none":
        return experts.act_fn
    return getattr(experts, "_apply_gate", None) or functools.partial(_apply_gate, experts)


def _apply_gate(experts: nn.Module, hidden_RG: torch.Tensor) -> torch.Tensor:
    gates_RF, ups_RF = hidden_RG.chunk(2, dim=-1)
    return experts.act_fn(gates_RF) * ups_RF


def sizes_of(experts: nn.Module, spec: MoELayerSpec, name: str) -> tuple[int, int, int]:
    """Returns E, H and F from the weight `down`; raises if other weights differ or are unknown."""
    # PEFT moves a parameter during a forward, and puts a computed one in its place.
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
                f"{name}: `{weight}` has shape {list(shapes.get(weight, ()))}, expected"
                f" {list(expected)} beside `{spec.down}` of shape {list(down)}"
            )
    known = (*spec.weight_names(), f"{spec.post_norm}.")
    if unknown := sorted(weight for weight in shapes if not weight.startswith(known)):
        raise ModelError(
            f"{name}: it has parameters of unknown use, {', '.join(unknown)}, beside"
            f" {', '.join(spec.weight_names())}: leaving them out would change what it computes"
        )
    return sizes
