"""One MoE layer, router and experts, by the engine and by its peers. Weights are random."""

from __future__ import annotations

from collections.abc import Callable

import openblas
import torch
from shapes import ROUTER_STD, Shape
from torch import nn

from autoep import functional


class MixtralLike(nn.Module):
    """A linear router and gated experts, with the parameters of transformers' block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        sizes = shape.layer(tokens=0).sizes()
        self.router, self.gate_up, self.down = (
            nn.Parameter(torch.empty(sizes[name])) for name in ("router", "gate_up", "down")
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [..., H] to [..., H]."""
        x_TH = x.reshape(-1, self.shape.hidden)
        logits_TE = nn.functional.linear(x_TH, self.router)
        topk_idx, topk_weights = self.route(logits_TE)
        return self.experts(x_TH, topk_idx, topk_weights).view(x.shape)


class EngineParts(MixtralLike):
    """`functional.route` and `functional.experts`."""

    def route(self, logits_TE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns topk_idx and topk_weights, both [T, K]."""
        routing = functional.route(logits_TE, self.shape.top_k, normalize=True)
        return routing.topk_idx, routing.topk_weights

    def experts(
        self, x_TH: torch.Tensor, topk_idx: torch.Tensor, topk_weights: torch.Tensor
    ) -> torch.Tensor:
        """Maps [T, H] to [T, H]."""
        return functional.experts(x_TH, topk_idx, topk_weights, self.gate_up, self.down)


class EngineLayer(EngineParts):
    """`functional.moe`: the parts in one call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [..., H] to [..., H]."""
        x_TH = x.reshape(-1, self.shape.hidden)
        weights = (self.router, self.shape.top_k, self.gate_up, self.down)
        return functional.moe(x_TH, *weights, routing={"normalize": True}).y.view(x.shape)


class OpenBLASLayer(MixtralLike):
    """Each expert's products by OpenBLAS, everything else by torch."""

    def route(self, logits_TE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns topk_idx and topk_weights, both [T, K]."""
        topk_weights, topk_idx = logits_TE.softmax(-1).topk(self.shape.top_k)
        return topk_idx, topk_weights / topk_weights.sum(-1, keepdim=True)

    def experts(
        self, x_TH: torch.Tensor, topk_idx: torch.Tensor, topk_weights: torch.Tensor
    ) -> torch.Tensor:
        """Maps [T, H] to [T, H]."""
        slots_N = topk_idx.flatten().argsort(stable=True)
        tokens_N = slots_N // self.shape.top_k
        counts = topk_idx.flatten().bincount(minlength=self.shape.experts).tolist()
        rows_NH = x_TH.index_select(0, tokens_N)
        gate_NF, up_NF = openblas.GroupedProduct.apply(rows_NH, self.gate_up, counts).chunk(2, -1)
        hidden_NF = nn.functional.silu(gate_NF) * up_NF
        results_NH = openblas.GroupedProduct.apply(hidden_NF, self.down, counts)
        weighted_NH = results_NH * topk_weights.flatten()[slots_N, None]
        return torch.zeros_like(x_TH).index_add(0, tokens_N, weighted_NH)


def of_class(layer: type[MixtralLike]) -> Callable[[Shape, str], nn.Module]:
    """Returns a builder for a layer of this file."""

    def make(shape: Shape, device: str) -> nn.Module:
        with torch.device(device):
            return layer(shape)

    return make


def hf_block(implementation: str) -> Callable[[Shape, str], nn.Module]:
    """Returns a builder for transformers' Mixtral block with one implementation of experts."""

    def make(shape: Shape, device: str) -> nn.Module:
        from transformers import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

        config = MixtralConfig(
            hidden_size=shape.hidden,
            intermediate_size=shape.ffn,
            num_local_experts=shape.experts,
            num_experts_per_tok=shape.top_k,
        )
        config._experts_implementation = implementation
        with torch.device(device):
            return MixtralSparseMoeBlock(config)

    return make


def deepspeed(shape: Shape, device: str, ep_size: int = 1, ep_rank: int = 0) -> nn.Module:
    """Builds DeepSpeed's AutoEP layer from transformers' block."""
    from deepspeed.module_inject.auto_ep import AutoEP
    from deepspeed.module_inject.auto_ep_config import parse_autoep_config
    from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
    from transformers import MixtralConfig, MixtralForCausalLM

    config = parse_autoep_config(
        {
            "enabled": True,
            "autoep_size": ep_size,
            "preset_model": "mixtral",
            "load_balance_coeff": None,
        }
    )
    model_config = MixtralConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        num_hidden_layers=1,
        vocab_size=128,
        num_attention_heads=16,
        num_key_value_heads=4,
    )
    with torch.device("meta"):
        model = MixtralForCausalLM(model_config)
    block = hf_block("eager")(shape, device).to(torch.bfloat16)
    (name,) = (n for n, module in model.named_modules() if type(module) is type(block))
    model.set_submodule(name, block)
    (spec,) = AutoEP(model, config).ep_parser()
    return AutoEPMoELayer(spec, block, ep_size=ep_size, ep_rank=ep_rank, config=config).to(device)


def sonic(shape: Shape, device: str) -> nn.Module:
    """Builds SonicMoE's layer, which interleaves gate and up."""
    from sonicmoe import MoE
    from sonicmoe.enums import ActivationType

    experts, top_k = shape.experts, shape.top_k
    return MoE(
        experts, top_k, shape.hidden, shape.ffn, ActivationType.SWIGLU, False, ROUTER_STD
    ).to(device)


LAYERS: dict[str, Callable[[Shape, str], nn.Module]] = {
    "autoep": of_class(EngineLayer),
    "autoep_hf_block": hf_block("autoep"),
    "hf_grouped_mm": hf_block("grouped_mm"),
    "hf_eager": hf_block("eager"),
    "openblas": of_class(OpenBLASLayer),
    "deepspeed_autoep": deepspeed,
    "sonicmoe": sonic,
}
# Without the layers that are slow or uninformative.
DEFAULT_LAYERS = {
    "cuda": ("autoep", "hf_grouped_mm", "deepspeed_autoep", "sonicmoe"),
    "cpu": ("autoep", "hf_grouped_mm", "hf_eager", "openblas"),
}
# The layers whose `experts` takes tokens, choices and weights.
WITH_EXPERTS = ("autoep", "autoep_hf_block", "hf_grouped_mm", "hf_eager", "openblas")
HF_LAYERS = ("hf_grouped_mm", "hf_eager")


def can_compute(name: str, dtype: str) -> bool:
    """Whether a layer, or the library of its products, supports a dtype here."""
    return name != "openblas" or (dtype == "f32" and openblas.is_installed())


def build(name: str, shape: Shape, dtype: torch.dtype, device: str) -> nn.Module:
    """Builds a layer with normal weights of the router's deviation."""
    return randomize(LAYERS[name](shape, device), dtype)


@torch.no_grad()
def randomize(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Sets a layer's dtype and weights; layers with the same parameters get the same."""
    layer.to(dtype).train()
    for index, parameter in enumerate(layer.parameters()):
        generator = torch.Generator(parameter.device.type).manual_seed(1 + index)
        parameter.normal_(std=ROUTER_STD, generator=generator)
    return layer


def router_weight(layer: nn.Module, shape: Shape) -> torch.Tensor:
    """Returns the router's weight, [E, H]."""
    wanted = (shape.experts, shape.hidden)
    return next(weight for weight in layer.parameters() if weight.shape == wanted)
