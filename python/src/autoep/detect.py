"""Finding a model's MoE layers: a spec for each family, and what it says of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoep.config import PRESET_NAMES
from autoep.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

# The activations of transformers, by the engine's names.
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


@dataclass(frozen=True)
class MoELayerSpec:
    """Where a family of transformers 5 keeps the parts of a MoE layer.

    The block's own code calls the router, then `experts(x, topk_idx, topk_weights)`; only the
    latter is replaced.

    Attributes:
        preset: The family's name, as in transformers.
        experts_class: The class that holds the stacked weights of a layer's experts.
        router: The block's attribute that is the router, which returns (logits, weights, idx).
        experts: The block's attribute that is the experts.
        num_experts: The experts' attribute that counts them.
        gate_up: The experts' attribute of [E, 2F, H].
        down: The experts' attribute of [E, H, F].
    """

    preset: str
    experts_class: str
    router: str = "gate"
    experts: str = "experts"
    num_experts: str = "num_experts"
    gate_up: str = "gate_up_proj"
    down: str = "down_proj"


PRESETS = {
    spec.preset: spec
    for spec in (
        MoELayerSpec("mixtral", "MixtralExperts"),
        MoELayerSpec("qwen3_moe", "Qwen3MoeExperts"),
        MoELayerSpec("deepseek_v2", "DeepseekV2Experts"),
        MoELayerSpec("deepseek_v3", "DeepseekV3Experts"),
    )
}
assert tuple(PRESETS) == PRESET_NAMES


@dataclass(frozen=True)
class MoELayer:
    """A MoE layer that was found in a model.

    Attributes:
        name: The block's name in the model.
        spec: Its family.
        router: The block's router.
        experts: The module whose forward is replaced.
        num_experts: E.
        hidden_size: H.
        ffn_size: F.
        activation: The engine's name of the experts' activation.
    """

    name: str
    spec: MoELayerSpec
    router: nn.Module
    experts: nn.Module
    num_experts: int
    hidden_size: int
    ffn_size: int
    activation: str

    def weight_names(self) -> tuple[str, str]:
        """The experts' attributes that are sharded."""
        return self.spec.gate_up, self.spec.down


def find_moe_layers(model: nn.Module, preset: str | None = None) -> list[MoELayer]:
    """Finds the MoE layers of a model, in the order of its modules.

    Args:
        model: A model of transformers 5.
        preset: The family to look for; None for any that is known.

    Raises:
        ModelError: The model has none, or one that is not as its family's are.
    """
    specs = PRESETS.values() if preset is None else [PRESETS[preset]]
    by_class = {spec.experts_class: spec for spec in specs}
    layers = [
        _describe(name, block, by_class[_class_of(experts, by_class)])
        for name, block in model.named_modules()
        for experts in [getattr(block, "experts", None)]
        if _class_of(experts, by_class)
    ]
    if not layers:
        raise _no_layers(model, preset)
    return layers


def _class_of(experts: object, known: dict[str, MoELayerSpec]) -> str | None:
    """The name of the first known class among a module's own and those it derives from."""
    return next((base.__name__ for base in type(experts).__mro__ if base.__name__ in known), None)


def _describe(name: str, block: nn.Module, spec: MoELayerSpec) -> MoELayer:
    experts = getattr(block, spec.experts)
    router = getattr(block, spec.router, None)
    gate_up = getattr(experts, spec.gate_up, None)
    down = getattr(experts, spec.down, None)
    if router is None or getattr(gate_up, "ndim", 0) != 3 or getattr(down, "ndim", 0) != 3:
        raise ModelError(
            f"{name} is no MoE layer of {spec.preset} as transformers 5 builds it: expected a"
            f" router `{spec.router}`, and `{spec.experts}` with `{spec.gate_up}` [E, 2F, H] and"
            f" `{spec.down}` [E, H, F]"
        )
    count, hidden_size, ffn_size = down.shape
    if gate_up.shape != (count, 2 * ffn_size, hidden_size):
        raise ModelError(
            f"{name}.{spec.experts}: `{spec.gate_up}` is {list(gate_up.shape)}, but `{spec.down}`"
            f" of {list(down.shape)} goes with {[count, 2 * ffn_size, hidden_size]}"
        )
    activation = _activation(name, experts)
    return MoELayer(name, spec, router, experts, count, hidden_size, ffn_size, activation)


def _activation(name: str, experts: nn.Module) -> str:
    given = getattr(getattr(experts, "config", None), "hidden_act", None)
    if given not in _ACTIVATIONS:
        raise ModelError(
            f"{name}: the activation hidden_act={given!r} is not one of those that the engine"
            f" computes: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[given]


def _no_layers(model: nn.Module, preset: str | None) -> ModelError:
    wanted = preset or "any known family"
    text = (
        f"{type(model).__name__} has no MoE layer of {wanted} (known: {', '.join(PRESETS)}), so"
        " there are no experts to spread."
    )
    others = sorted(set(_unknown_experts(model)))
    if others:
        text += f" It has experts of another kind: {', '.join(others)}."
    return ModelError(
        f"{text} Use a model of a known family in transformers 5, mend"
        " expert_parallel.preset_model, or set expert_parallel.enabled to false to train it"
        " without expert parallelism."
    )


def _unknown_experts(model: nn.Module) -> Iterator[str]:
    """The classes of modules that look like experts: transformers marks those it stacks."""
    for name, module in model.named_modules():
        marked = hasattr(module, "is_transposed") and hasattr(module, "_is_expert_parallel")
        if marked or name.rsplit(".", 1)[-1] == "experts":
            yield type(module).__name__
