"""Blocks of one's own that do in training what the engine would not: refused, never dropped."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from support.compare import assert_close
from torch import nn
from torch.nn import functional as torch_functional

import autoep

E, H, F, K = 6, 16, 20, 2

Model = nn.Sequential


class Expert(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(H, F, bias=False)
        self.down = nn.Linear(F, H, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.down(torch_functional.silu(self.up(x))))


class Block(nn.Module):
    """A MoE layer; a subclass changes one thing in it."""

    def __init__(self, dropout: float = 0.0, top_k: int = K) -> None:
        super().__init__()
        self.gate = nn.Linear(H, E, bias=False)
        self.experts = nn.ModuleList([Expert(dropout) for _ in range(E)])
        self.top_k = top_k
        self.register_buffer("seen", torch.zeros(E))

    def scores(self, logits_TE: torch.Tensor) -> torch.Tensor:
        return logits_TE.softmax(-1)

    def last(self, y: torch.Tensor) -> torch.Tensor:
        return y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x_TH = x.reshape(-1, H)
        weights_TK, idx_TK = self.scores(self.gate(x_TH)).topk(self.top_k)
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        y_TH = torch.zeros_like(x_TH)
        for index, expert in enumerate(self.experts):
            token, k = torch.where(idx_TK == index)
            y_TH = y_TH.index_add(0, token, expert(x_TH[token]) * weights_TK[token, k, None])
        return self.last(y_TH.view(x.shape))


class NoisyScores(Block):
    def scores(self, logits_TE: torch.Tensor) -> torch.Tensor:
        noise = torch.randn_like(logits_TE) if self.training else 0.0
        return (logits_TE + noise).softmax(-1)


class ConstantScores(Block):
    def scores(self, logits_TE: torch.Tensor) -> torch.Tensor:
        return logits_TE.softmax(-1).detach()


class KeepsALoss(Block):
    def scores(self, logits_TE: torch.Tensor) -> torch.Tensor:
        self.aux_loss = logits_TE.logsumexp(-1).square().mean()
        return logits_TE.softmax(-1)


class Counts(Block):
    def scores(self, logits_TE: torch.Tensor) -> torch.Tensor:
        self.seen += logits_TE.detach().softmax(-1).sum(0)
        return logits_TE.softmax(-1)


class Dropped(Block):
    def last(self, y: torch.Tensor) -> torch.Tensor:
        return torch_functional.dropout(y, 0.1, self.training)


class Capacity(Block):
    """Each expert takes its share of the tokens and a quarter more, at least eight."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x_TH = x.reshape(-1, H)
        weights_TK, idx_TK = self.gate(x_TH).softmax(-1).topk(K)
        weights_TK = weights_TK / weights_TK.sum(-1, keepdim=True)
        capacity = max(8, int(1.25 * len(x_TH) * K / E))
        y_TH = torch.zeros_like(x_TH)
        for index, expert in enumerate(self.experts):
            token, k = (part[:capacity] for part in torch.where(idx_TK == index))
            y_TH = y_TH.index_add(0, token, expert(x_TH[token]) * weights_TK[token, k, None])
        return y_TH.view(x.shape)


def start(model: nn.Module, **keys: object) -> autoep.training.engine.Engine:
    return autoep.initialize(model=model, config={"expert_parallel": keys})[0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (NoisyScores, "in training its result differs"),
        (ConstantScores, "in training its .*gradient differs"),
        (KeepsALoss, "its forward stores `aux_loss` on the module"),
        (Counts, "its forward stores `seen` on the module"),
        (Dropped, "in training its result differs"),
        (Capacity, "in training its result differs.*capacity"),
        (lambda: Block(dropout=0.1), "alike in training and in eval"),
    ],
)
def test_what_a_block_does_in_training_only_is_not_lost(
    make: Callable[[], nn.Module], says: str
) -> None:
    model = Model(Block(), make())
    state = torch.get_rng_state()
    with pytest.raises(autoep.ModelError, match=rf"^1: .*has experts.*{says}"):
        start(model)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("top_k", [1, K, E])
def test_gradients_that_vanish_are_no_difference(top_k: int, seed: int) -> None:
    """With one expert a token its normalised weight is one, whatever the router says."""
    torch.manual_seed(seed)
    model = Model(Block(top_k=top_k), Block(top_k=top_k))
    plain = copy.deepcopy(model)
    x = torch.randn(5, H)
    engine = start(model)
    mine, theirs = engine(x), plain(x)
    assert_close([mine], [theirs])
    engine.backward(mine.square().sum())
    theirs.square().sum().backward()
    routers = [(model[i].gate.weight.grad, plain[i].gate.weight.grad) for i in (0, 1)]
    largest = max(p.grad.norm() for p in plain.parameters())
    assert all((mine - theirs).norm() <= 3e-6 * largest for mine, theirs in routers)


def tie_experts(model: nn.Module) -> None:
    model[1].experts[2] = model[1].experts[0]


def tie_weights(model: nn.Module) -> None:
    model[1].experts[2].up.weight = model[1].experts[0].up.weight


def tie_layers(model: nn.Module) -> None:
    model[1].experts = model[0].experts


def tie_one_of_each(model: nn.Module) -> None:
    model[1].experts[3] = model[0].experts[3]


@pytest.mark.parametrize("tie", [tie_experts, tie_weights, tie_layers, tie_one_of_each])
def test_tied_experts_are_refused_before_the_model_is_changed(
    tie: Callable[[nn.Module], None],
) -> None:
    model = Model(Block(), Block())
    tie(model)
    x = torch.randn(3, H)
    before = model(x)
    with pytest.raises(autoep.ModelError, match=r"^[01]: experts are tied"):
        start(model)
    assert torch.equal(model(x), before)


def test_a_block_that_is_there_twice_works() -> None:
    block = Block().double()
    plain = copy.deepcopy(Model(block, block))
    x = torch.randn(3, H).double()
    assert_close([start(Model(block, block))(x)], [plain(x)])


@pytest.mark.parametrize(
    "keys",
    [
        {"shared_experts_pattern": "shared"},
        {"has_shared_experts": True},
    ],
)
def test_a_part_that_is_not_there_is_refused(keys: dict) -> None:
    (key,) = keys
    with pytest.raises(autoep.ConfigError, match=rf"{key}: 0 has no .*its parts are gate, experts"):
        start(Model(Block()), moe_layer_pattern=r"^\d", **keys)


def test_keys_that_do_not_go_together_are_refused() -> None:
    """Groups of experts go with some scores; the others are not tried."""
    with pytest.raises(autoep.ModelError, match="the engine cannot reproduce what it computes"):
        start(Model(Block()), moe_layer_pattern=r"^\d", num_expert_groups=3, num_limited_groups=1)


class Masked(Block):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y = super().forward(x)
        return y if mask is None else y * mask


def test_what_a_block_is_given_besides_is_not_ignored() -> None:
    model = Model(Masked())
    x, mask = torch.randn(3, H), torch.zeros(3, 1)
    start(model)
    assert torch.equal(model[0](x), model[0](x, None))
    assert torch.equal(model[0](x), model[0](x, mask=None))
    for arguments, named in (((mask,), {}), ((), {"mask": mask})):
        with pytest.raises(autoep.ModelError, match="Masked was called with more than the tokens"):
            model[0](x, *arguments, **named)
