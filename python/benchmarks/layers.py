"""One MoE layer, router and experts, as the engine and its peers have it. Weights are random."""

from __future__ import annotations

from collections.abc import Callable

import torch
from shapes import ROUTER_STD, Shape
from torch import nn

from autoep import functional


class EngineLayer(nn.Module):
    """A Mixtral-like block: a linear router, `functional.route`, `functional.experts`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.router = nn.Parameter(torch.empty(shape.experts, shape.hidden))
        self.gate_up = nn.Parameter(torch.empty(shape.experts, 2 * shape.ffn, shape.hidden))
        self.down = nn.Parameter(torch.empty(shape.experts, shape.hidden, shape.ffn))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., H] to [..., H]."""
        x_TH = x.reshape(-1, self.shape.hidden)
        logits_TE = nn.functional.linear(x_TH, self.router)
        routing = functional.route(logits_TE, self.shape.top_k, normalize=True)
        y_TH = functional.experts(
            x_TH, routing.topk_idx, routing.topk_weights, self.gate_up, self.down
        )
        return y_TH.view(x.shape)


def engine(shape: Shape, device: str) -> nn.Module:
    """This engine, with its fused router."""
    with torch.device(device):
        return EngineLayer(shape)


def hf_block(implementation: str) -> Callable[[Shape, str], nn.Module]:
    """The Mixtral block of transformers, with one of its implementations of experts."""

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


def deepspeed(shape: Shape, device: str) -> nn.Module:
    """DeepSpeed's AutoEP layer at ep_size 1, made of transformers' block."""
    from deepspeed.module_inject.auto_ep import AutoEP
    from deepspeed.module_inject.auto_ep_config import parse_autoep_config
    from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
    from transformers import MixtralConfig, MixtralForCausalLM

    config = parse_autoep_config(
        {"enabled": True, "autoep_size": 1, "preset_model": "mixtral", "load_balance_coeff": None}
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
    return AutoEPMoELayer(spec, block, ep_size=1, ep_rank=0, config=config).to(device)


def sonic(shape: Shape, device: str) -> nn.Module:
    """SonicMoE's layer, which has gate and up interleaved."""
    from sonicmoe import MoE
    from sonicmoe.enums import ActivationType

    experts, top_k = shape.experts, shape.top_k
    return MoE(
        experts, top_k, shape.hidden, shape.ffn, ActivationType.SWIGLU, False, ROUTER_STD
    ).to(device)


LAYERS: dict[str, Callable[[Shape, str], nn.Module]] = {
    "autoep": engine,
    "autoep_hf_block": hf_block("autoep"),
    "hf_grouped_mm": hf_block("grouped_mm"),
    "hf_eager": hf_block("eager"),
    "deepspeed_autoep": deepspeed,
    "sonicmoe": sonic,
}
# Without those that take long or say little.
DEFAULT_LAYERS = {
    "cuda": ("autoep", "hf_grouped_mm", "deepspeed_autoep", "sonicmoe"),
    "cpu": ("autoep", "hf_grouped_mm", "hf_eager"),
}


def build(name: str, shape: Shape, dtype: torch.dtype, device: str) -> nn.Module:
    """Makes a layer, with normal weights of the router's deviation."""
    layer = LAYERS[name](shape, device).to(dtype).train()
    generator = torch.Generator(device).manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=ROUTER_STD, generator=generator)
    return layer


def router_weight(layer: nn.Module, shape: Shape) -> torch.Tensor:
    """The router's weight, [E, H]."""
    wanted = (shape.experts, shape.hidden)
    return next(weight for weight in layer.parameters() if weight.shape == wanted)
