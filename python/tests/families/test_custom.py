"""Models of one's own, described by the keys of the configuration."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.compare import assert_close
from torch import nn
from torch.nn import functional as torch_functional

import autoep

E, H, F, K = 6, 16, 20, 2


class Expert(nn.Module):
    """An MLP with names that nobody knows."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.into = nn.Linear(H, F, bias=bias)
        self.beside = nn.Linear(H, F, bias=bias)
        self.out = nn.Linear(F, H, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch_functional.gelu(self.into(x)) * self.beside(x))


class PlainExpert(nn.Module):
    """An MLP without a gate, in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(H, F), nn.ReLU(), nn.Linear(F, H))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Stack(nn.Module):
    """Stacked weights, gate and up apart, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(E, H, F) / H**0.5)
        self.b = nn.Parameter(torch.randn(E, H, F) / H**0.5)
        self.c = nn.Parameter(torch.randn(E, F, H) / F**0.5)

    def forward(self, x: torch.Tensor, idx: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        for expert in range(E):
            token, k = torch.where(idx == expert)
            rows = x[token] * weights[token, k, None]
            hidden = torch_functional.silu(rows @ self.a[expert]) * (rows @ self.b[expert])
            y = y.index_add(0, token, hidden @ self.c[expert])
        return y


class Block(nn.Module):
    """A MoE layer that routes by a softmax, or by groups of a sigmoid."""

    def __init__(self, experts: nn.Module, kind: str) -> None:
        super().__init__()
        self.route = nn.Linear(H, E)
        self.bank = experts
        self.kind = kind
        if kind == "shared":
            self.common = nn.Linear(H, H)

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kind != "grouped":
            weights, idx = logits.softmax(-1).topk(K)
            return 1.5 * weights / weights.sum(-1, keepdim=True), idx
        scores = logits.sigmoid()
        best = scores.view(-1, 3, 2).sum(-1).topk(2).indices
        allowed = torch.zeros(len(scores), 3).scatter(1, best, 1).repeat_interleave(2, 1)
        idx = scores.masked_fill(allowed == 0, -1).topk(K).indices
        return scores.gather(1, idx), idx

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.reshape(-1, H)
        weights, idx = self.choose(self.route(tokens))
        if self.kind == "stacked":
            return self.bank(tokens, idx, weights).view(x.shape)
        y = torch.zeros_like(tokens)
        for expert, module in enumerate(self.bank):
            token, k = torch.where(idx == expert)
            y = y.index_add(0, token, module(tokens[token]) * weights[token, k, None])
        if self.kind == "shared":
            y = y + self.common(tokens)
        return y.view(x.shape)


class Model(nn.Module):
    def __init__(self, make_experts, kind: str = "plain") -> None:
        super().__init__()
        self.config = SimpleNamespace(chosen=K, count=E)
        self.layers = nn.ModuleList([nn.Module() for _ in range(2)])
        for layer in self.layers:
            layer.moe = Block(make_experts(), kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer.moe(x)
        return x


def listed(kind: type[nn.Module], **options) -> nn.ModuleList:
    return nn.ModuleList([kind(**options) for _ in range(E)])


KEYS = {
    "moe_layer_pattern": r"layers\.\d+\.moe",
    "router_pattern": "route",
    "expert_pattern": "bank",
    "top_k_attr": "chosen",
    "num_experts_attr": "count",
}
SCALED = {"route_norm": True, "route_scale": 1.5, "score_func": "softmax"}
NAMED = {"expert_w1": "into", "expert_w2": "out", "expert_w3": "beside"}
GROUPS = {
    "score_func": "sigmoid",
    "route_norm": False,
    "num_expert_groups": 3,
    "num_limited_groups": 2,
}
STACKED = {"expert_w1": "a", "expert_w2": "c", "expert_w3": "b", "score_apply": "before"}

MODELS = {
    "MLPs, named": (lambda: Model(lambda: listed(Expert)), NAMED | SCALED),
    "MLPs, found": (lambda: Model(lambda: listed(Expert)), SCALED),
    "MLPs with biases": (lambda: Model(lambda: listed(Expert, bias=True)), SCALED),
    "no gate": (lambda: Model(lambda: listed(PlainExpert)), SCALED),
    "shared": (
        lambda: Model(lambda: listed(Expert), "shared"),
        {"shared_experts_pattern": "comm.*"} | SCALED,
    ),
    "groups": (lambda: Model(lambda: listed(Expert), "grouped"), GROUPS),
    "stacked": (lambda: Model(Stack, "stacked"), STACKED),
}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_ones_own(kind: str) -> None:
    make, keys = MODELS[kind]
    torch.manual_seed(4)
    model = make()
    plain = copy.deepcopy(model)
    count = len(list(model.parameters()))
    engine, optimizer, *_ = autoep.initialize(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        config={"expert_parallel": KEYS | keys},
    )
    x = torch.randn(3, 7, H)
    mine, theirs = engine(x), plain(x)
    assert_close([mine], [theirs])
    engine.backward(mine.square().sum())
    theirs.square().sum().backward()
    dense = {name: g for name, g in gradients(plain).items() if ".bank." not in name}
    found = gradients(engine.module)
    assert_close([found[name] for name in dense], list(dense.values()))
    experts = {name: g for name, g in found.items() if name not in dense}
    assert experts.keys() == {n for n, _ in engine.module.named_parameters() if ".bank." in n}
    norm = torch.stack([g.norm() for n, g in gradients(plain).items() if n not in dense]).norm()
    assert_close([torch.stack([g.norm() for g in experts.values()]).norm()], [norm])
    stepped = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(stepped) == len(set(stepped)) == len(list(engine.module.parameters())) < count
    engine.step()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    assert_close([engine(x)], [plain(x)])


def test_the_stacked_experts_have_transformers_names() -> None:
    make, keys = MODELS["MLPs with biases"]
    engine, *_ = autoep.initialize(model=make(), config={"expert_parallel": KEYS | keys})
    shapes = {n: tuple(p.shape) for n, p in engine.module.layers[0].moe.bank.named_parameters()}
    assert shapes == {
        "gate_up_proj": (E, 2 * F, H),
        "gate_up_proj_bias": (E, 2 * F),
        "down_proj": (E, H, F),
        "down_proj_bias": (E, H),
    }


@pytest.mark.parametrize(
    ("keys", "error", "says"),
    [
        ({"moe_layer_pattern": "ffn"}, autoep.ConfigError, "no module's name ends with 'ffn'"),
        ({"num_experts_attr": "chosen"}, autoep.ConfigError, "chosen = 2, but .* has 6 experts"),
        ({"top_k_attr": "missing"}, autoep.ConfigError, "top_k_attr.*no.*'missing'|'missing'"),
        ({"expert_w1": "into"}, autoep.ConfigError, "expert_w1, expert_w2"),
        ({"expert_pattern": "experts"}, autoep.ModelError, "no experts under 'experts'"),
        ({"score_func": "sigmoid"}, autoep.ModelError, "the engine cannot reproduce what"),
        ({"route_norm": False}, autoep.ModelError, "the engine cannot reproduce what"),
        ({"route_scale": 2.0}, autoep.ModelError, "the engine cannot reproduce what"),
        ({"top_k": 3}, autoep.ModelError, "the engine cannot reproduce what"),
        (NAMED | {"expert_w3": "into"}, autoep.ModelError, "the engine cannot reproduce what"),
        ({"score_apply": "before"}, autoep.ModelError, "the engine cannot reproduce what"),
    ],
)
def test_a_description_that_is_not_the_layers_is_refused(keys: dict, error, says: str) -> None:
    make, own = MODELS["MLPs, found"]
    with pytest.raises(error, match=says):
        autoep.initialize(model=make(), config={"expert_parallel": KEYS | own | keys})


def test_partly_frozen_experts_are_refused() -> None:
    make, own = MODELS["MLPs, found"]
    model = make()
    model.layers[1].moe.bank[2].out.weight.requires_grad = False
    with pytest.raises(autoep.ModelError, match=r"layers\.1\.moe: some parameters.*are frozen"):
        autoep.initialize(model=model, config={"expert_parallel": KEYS | own})


def test_sinkhorn_needs_a_router() -> None:
    make, own = MODELS["MLPs, found"]
    with pytest.raises(autoep.ModelError, match="chooses its experts without one"):
        autoep.initialize(
            model=make(), config={"expert_parallel": KEYS | own | {"router": "sinkhorn"}}
        )


def test_a_checkpoint_has_the_stacked_experts(tmp_path: Path) -> None:
    make, own = MODELS["MLPs, found"]
    config = {"expert_parallel": KEYS | own, "optimizer": {"type": "AdamW"}}
    engines = [autoep.initialize(model=make(), config=config)[0] for _ in range(2)]
    x = torch.randn(5, H)
    engines[0].backward(engines[0](x).square().sum())
    engines[0].step()
    engines[0].save_checkpoint(tmp_path)
    engines[1].load_checkpoint(tmp_path)
    assert torch.equal(engines[0](x), engines[1](x))
