"""Finding a model's MoE layers."""

from __future__ import annotations

from torch import nn

from autoep.detection.conventions import follows_convention, spec_by_convention
from autoep.detection.spec import MoELayer, MoELayerSpec, sizes_of
from autoep.errors import ModelError

_ROUTERS = ("gate", "router")

WRAPPED = "base_layer"  # PEFT's name of what a wrapper is around


def find_moe_layers(model: nn.Module, preset: str | None = None) -> list[MoELayer]:
    """Finds the MoE layers of a model, in the order of its modules.

    Args:
        model: A model of transformers; its weights are not read.
        preset: The family to look for; None for any.

    Raises:
        ModelError: The model has none, or one that is not as its own code says.
    """
    found = [
        describe(model, name, spec_by_convention(experts))
        for name, experts in model.named_modules()
        if follows_convention(experts)
    ]
    layers = [layer for layer in found if preset in (None, layer.spec.family)]
    if not layers:
        raise _no_layers(model, preset, found)
    return layers


def describe(model: nn.Module, name: str, spec: MoELayerSpec) -> MoELayer:
    """Describes the layer of the experts of a name, after checking the shapes of their weights."""
    experts = model.get_submodule(name)
    if type(experts).__module__.startswith("peft."):  # it hands out what it wraps as its own
        raise ModelError(
            f"{name}: PEFT's {type(experts).__name__} is around these experts; supported there is"
            " LoRA through `target_parameters`"
        )
    block_name = without_wrappers(name).rpartition(".")[0]
    block = model.get_submodule(block_name)
    count, hidden_size, ffn_size = sizes_of(experts, spec, name)
    router = next((getattr(block, r) for r in _ROUTERS if hasattr(block, r)), None)
    return MoELayer(block_name, block, spec, router, experts, count, hidden_size, ffn_size)


def without_wrappers(name: str) -> str:
    """The name that a module has where PEFT has put nothing around it."""
    while name.endswith(f".{WRAPPED}"):
        name = name.removesuffix(f".{WRAPPED}")
    return name


def _no_layers(model: nn.Module, preset: str | None, found: list[MoELayer]) -> ModelError:
    others = sorted(
        {layer.spec.family for layer in found}
        or {type(m).__name__ for n, m in model.named_modules() if n.endswith("experts")}
    )
    return ModelError(
        f"{type(model).__name__} has no MoE layer of {preset or 'a known kind'}, so there are no"
        " experts to spread."
        + (f" It has experts of another kind: {', '.join(others)}." if others else "")
        + " Use a model of transformers 5, mend expert_parallel.preset_model, or set"
        " expert_parallel.enabled to false to train it without expert parallelism."
    )
