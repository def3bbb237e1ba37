"""Experts of a family that nothing here names: transformers' convention is enough."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from support.compare import assert_close
from torch import nn
from torch.nn import functional as torch_functional
from transformers import PretrainedConfig
from transformers.integrations.moe import use_experts_implementation

import autoep
from autoep.detection.find import find_moe_layers

E, H, F, K = 6, 16, 20, 2

ACTIVATIONS = {
    "silu": torch_functional.silu,
    "gelu": torch_functional.gelu,
    "relu_squared": lambda x: torch_functional.relu(x).square(),
    "mish": torch_functional.mish,  # the engine has no such
}


class HomemadeConfig(PretrainedConfig):
    model_type = "homemade"


class Norm(nn.RMSNorm):
    def __init__(self) -> None:
        super().__init__(H)
        nn.init.uniform_(self.weight, 0.5, 1.5)


def make_experts(
    *, gate: str, transposed: bool, bias: bool, norm: bool, activation: str
) -> nn.Module:
    """Experts of a new class, written as one of transformers is."""

    @use_experts_implementation(
        is_transposed=transposed,
        has_bias=bias,
        has_gate=gate != "none",
        has_post_expert_norm=norm,
        is_concatenated=gate != "interleaved",
    )
    class HomemadeExperts(nn.Module):
        def __init__(self, config: PretrainedConfig) -> None:
            super().__init__()
            wide = F if gate == "none" else 2 * F
            first = "up_proj" if gate == "none" else "gate_up_proj"
            self.num_experts = E
            for name, out, into in ((first, wide, H), ("down_proj", H, F)):
                shape = (E, into, out) if transposed else (E, out, into)
                setattr(self, name, nn.Parameter(torch.randn(shape) / into**0.5))
                if bias:
                    setattr(self, f"{name}_bias", nn.Parameter(torch.randn(E, out)))
            self.act_fn = ACTIVATIONS[activation]
            if norm:
                self.post_expert_norm = Norm()

        if gate == "interleaved":

            def _apply_gate(self, gate_up: torch.Tensor) -> torch.Tensor:
                return self.act_fn(gate_up[..., ::2]) * gate_up[..., 1::2]

        def linear(self, x: torch.Tensor, name: str, expert: int) -> torch.Tensor:
            weight = getattr(self, name)[expert]
            out = x @ weight if transposed else x @ weight.T
            return out + getattr(self, f"{name}_bias")[expert] if bias else out

        def forward(self, x, top_k_index, top_k_weights):
            y = torch.zeros_like(x)
            for expert in range(self.num_experts):
                token, k = torch.where(top_k_index == expert)
                first = "up_proj" if gate == "none" else "gate_up_proj"
                hidden = self.linear(x[token], first, expert)
                hidden = self.act_fn(hidden) if gate == "none" else self._apply_gate(hidden)
                out = self.linear(hidden, "down_proj", expert)
                out = self.post_expert_norm(out) if norm else out
                y = y.index_add(0, token, out * top_k_weights[token, k, None])
            return y

    config = HomemadeConfig()
    config._experts_implementation = "eager"
    return HomemadeExperts(config)


class Model(nn.Module):
    """Two layers with a linear router each."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.routers = nn.ModuleList([nn.Linear(H, E) for _ in range(2)])
        self.layers = nn.ModuleList([nn.Module() for _ in range(2)])
        for layer in self.layers:
            layer.my_experts = make_experts(**options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for router, layer in zip(self.routers, self.layers, strict=True):
            weights, idx = router(x).softmax(-1).topk(K)
            x = x + layer.my_experts(x, idx, weights)
        return x


def choices() -> list[dict]:
    """Every layout once for each activation, in a row of pairs that covers all two by two."""
    layouts = itertools.product(("concatenated", "interleaved", "none"), (False, True))
    return [
        {"gate": gate, "transposed": transposed, "bias": bias, "norm": norm, "activation": name}
        for number, (gate, transposed) in enumerate(layouts)
        for place, name in enumerate(ACTIVATIONS)
        for bias in [(number + place) % 2 == 0]
        for norm in [(number // 2 + place) % 3 == 0]
    ]


@pytest.mark.parametrize("options", choices(), ids=lambda o: "-".join(map(str, o.values())))
def test_an_unknown_family_is_computed_as_its_code_says(options: dict) -> None:
    torch.manual_seed(3)
    model = Model(**options).double()
    plain = copy.deepcopy(model)
    state = torch.get_rng_state()
    layers = find_moe_layers(model)
    assert [layer.name for layer in layers] == ["layers.0", "layers.1"]
    assert {layer.spec.family for layer in layers} == {"homemade"}
    known = options["activation"] != "mish"
    assert all((layer.spec.activation is not None) == known for layer in layers)
    engine, *_ = autoep.initialize(model=model, config={})
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.randn(11, H, dtype=torch.float64)
    mine, theirs = engine(x), plain(x)
    assert_close([mine], [theirs])
    mine.square().sum().backward()
    theirs.square().sum().backward()
    assert_close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])


def test_a_dropout_after_the_activation_is_kept() -> None:
    """Models come in eval mode, where it is not seen."""
    torch.manual_seed(5)
    model = Model(gate="concatenated", transposed=False, bias=False, norm=False, activation="silu")
    for layer in model.layers:
        layer.my_experts.act_fn = nn.Sequential(nn.SiLU(), nn.Dropout(0.5))
    model.eval()
    plain = copy.deepcopy(model)
    state = torch.get_rng_state()
    assert {layer.spec.activation for layer in find_moe_layers(model)} == {None}
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part.training for part in model.modules())
    engine, *_ = autoep.initialize(model=model, config={})
    x = torch.randn(11, H)
    assert_close([engine.eval()(x)], [plain(x)])
    engine.train()
    assert not torch.equal(engine(x), engine(x))


def broken(change) -> Model:
    model = Model(gate="concatenated", transposed=False, bias=False, norm=False, activation="silu")
    for layer in model.layers:
        change(layer.my_experts)
    return model


def give_a_bias(experts: nn.Module) -> None:
    experts.scale = nn.Parameter(torch.ones(E))


def claim_another_layout(experts: nn.Module) -> None:
    experts.is_transposed = True


def compute_something_else(experts: nn.Module) -> None:
    class Other(type(experts)):
        def forward(self, x, top_k_index, top_k_weights):
            return super().forward(x, top_k_index, top_k_weights) + 0.1 * x

    experts.__class__ = Other


def change_the_call(experts: nn.Module) -> None:
    class Other(type(experts)):
        def forward(self, x):
            return x

    experts.__class__ = Other


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (give_a_bias, "parameters of unknown use, scale, beside gate_up_proj, down_proj"),
        (claim_another_layout, r"`gate_up_proj` has shape \[6, 40, 16\].*\[6, 20, 32\]"),
        (compute_something_else, "on random numbers its result differs"),
        (change_the_call, "calling it this way fails: .*positional arguments"),
    ],
)
def test_what_differs_from_the_convention_is_refused(change, says: str) -> None:
    with pytest.raises(autoep.ModelError, match=says):
        autoep.initialize(model=broken(change), config={})
