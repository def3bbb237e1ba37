"""The routers in training: fused, and balanced by their biases."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from support import models
from support.cases import Ranks, case
from support.compare import assert_close
from support.engines import ADAMW, start
from support.models import PlainRun

import autoep
from autoep.layers.selection_bias import selection_bias
from autoep.routers.fused import FusedForward
from autoep.training.engine import Engine

COEFFICIENT = 0.05


@case(fused=[True, False], preset=["mixtral", "deepseek_v3"])
def fused_routers_give_the_numbers_of_plain_hf(ranks: Ranks, fused: bool, preset: str) -> None:
    aux = {"output_router_logits": True, "router_aux_loss_coef": 0.1}
    model = models.tiny(preset, **(aux if preset == "mixtral" else {}))
    plain = PlainRun(copy.deepcopy(model))
    engine = start(model, optimizer=ADAMW, expert_parallel={"fused_router": fused})
    routers = [m for name, m in model.named_modules() if name.endswith(".mlp.gate")]
    assert {isinstance(router.forward, FusedForward) for router in routers} == {fused}
    batches = models.micro_batches(0, 1, ranks.size)
    (theirs,) = plain.backward(batches)
    mine = engine(**batches[0][ranks.rank])
    engine.backward(mine.loss)
    assert_close([mine.logits, mine.loss], [theirs[ranks.rank].logits, theirs[ranks.rank].loss])
    models.assert_same_gradients(engine, plain.model)
    if preset == "mixtral":
        own = theirs[ranks.rank]
        assert_close([mine.aux_loss, *mine.router_logits], [own.aux_loss, *own.router_logits])


def balanced(seed: int = 1, bf16: bool = False, ep_size: int | None = None, **options) -> Engine:
    return start(
        models.tiny("deepseek_v3", seed=seed),
        ep_size,
        optimizer=ADAMW,
        bf16={"enabled": bf16},
        gradient_accumulation_steps=2,
        expert_parallel={"load_balance_coeff": COEFFICIENT, **options},
    )


def biases(engine: Engine) -> list[torch.Tensor]:
    blocks = (block for block in engine.module.modules() if hasattr(block, "experts"))
    return [selection_bias(block, 8).clone() for block in blocks]


def train(engine: Engine, ranks: Ranks, steps: range) -> None:
    for step in steps:
        for of_ranks in models.micro_batches(step, 2, ranks.size):
            engine.backward(engine(**of_ranks[ranks.rank]).loss)
            engine.step()


@case(bf16=[False, True], fused_router=[False, True], ep_size=[1, 2, 4])
def biases_follow_the_load_of_all_ranks(
    ranks: Ranks, bf16: bool, fused_router: bool, ep_size: int
) -> None:
    engine = balanced(bf16=bf16, ep_size=ep_size, fused_router=fused_router)
    for step in range(3):
        before = biases(engine)
        train(engine, ranks, range(step, step + 1))
        loads = engine.expert_load()
        assert loads.sum(1).tolist() == [ranks.size * 2 * 24 * 2] * len(before)
        for bias, old, load in zip(biases(engine), before, loads.tolist(), strict=True):
            mean = sum(load) / len(load)
            moves = [(count < mean) - (count > mean) for count in load]
            assert any(moves)
            expected = old + COEFFICIENT * torch.tensor(moves)
            assert bias.dtype == torch.float32
            assert torch.allclose(bias, expected, rtol=0, atol=1e-6)
            if ranks.size > 1:
                dist.broadcast(expected, src=0)
                assert torch.allclose(bias, expected, rtol=0, atol=1e-6)


@case(bf16=[False, True])
def a_checkpoint_has_the_biases(ranks: Ranks, bf16: bool) -> None:
    engine = balanced(bf16=bf16)
    train(engine, ranks, range(2))
    engine.save_checkpoint(ranks.folder)
    train(engine, ranks, range(2, 4))
    other = balanced(bf16=bf16, seed=7)
    other.load_checkpoint(ranks.folder)
    train(other, ranks, range(2, 4))
    assert all(map(torch.equal, biases(other), biases(engine)))
    assert models.bits(other) == models.bits(engine)


@case()
def evaluation_moves_no_bias(ranks: Ranks) -> None:
    engine = balanced()
    before = biases(engine)
    with torch.no_grad():
        engine.eval()(**models.batch(ranks.rank))
    train(engine.train(), ranks, range(1))
    assert engine.expert_load().sum(1).tolist() == [ranks.size * 2 * 24 * 2]
    assert not any(map(torch.equal, biases(engine), before))


@case()
def evaluation_with_gradients_is_not_counted(ranks: Ranks) -> None:
    engine = balanced()
    engine.eval()(**models.batch(ranks.rank))
    train(engine.train(), ranks, range(1))
    assert engine.expert_load().sum(1).tolist() == [ranks.size * 2 * 24 * 2]


@case(by_position=[False, True])
def padding_is_not_counted(ranks: Ranks, by_position: bool) -> None:
    """On the left of some rows and on the right of others; the counts are those of real tokens."""
    seen: list[torch.Tensor] = []
    engine = start(
        models.tiny("deepseek_v3"), optimizer=ADAMW, expert_parallel={"load_balance_coeff": 0.05}
    )
    router = engine.module.model.layers[1].mlp.gate
    router.register_forward_hook(lambda module, given, routed: seen.append(routed[2]))
    ids = models.batch(ranks.rank)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    mask[1, 9 - ranks.rank :] = 0
    arguments = (ids, mask) if by_position else ()
    named = {} if by_position else {"input_ids": ids, "attention_mask": mask}
    engine.backward(engine(*arguments, **named, labels=ids).loss)
    engine.step()
    expected = torch.bincount(seen[0][mask.flatten() != 0].flatten(), minlength=8)
    if ranks.size > 1:
        dist.all_reduce(expected)
    assert engine.expert_load()[0].tolist() == expected.tolist()


@case(router=["fused", "model", "sinkhorn"], preset=["mixtral", "deepseek_v3"])
def nan_on_one_rank_is_a_loss_of_nan(ranks: Ranks, router: str, preset: str) -> None:
    """And of no other rank's, as in plain HF; nobody raises or waits."""
    choice = {"router": "sinkhorn"} if router == "sinkhorn" else {"fused_router": router == "fused"}
    model = models.tiny(preset)
    plain = copy.deepcopy(model)
    engine = start(model, optimizer=ADAMW, expert_parallel=choice)
    ids = models.batch(ranks.rank)["input_ids"]
    embeddings = plain.get_input_embeddings()(ids).detach()
    if ranks.rank == 0:
        embeddings[1, 4, 3] = torch.nan
    mine = engine(inputs_embeds=embeddings, labels=ids)
    theirs = plain(inputs_embeds=embeddings, labels=ids)
    assert mine.loss.isnan() == theirs.loss.isnan() == (ranks.rank == 0)
    assert torch.equal(mine.logits.isnan(), theirs.logits.isnan())
    if router != "sinkhorn":
        real = ~theirs.logits.isnan()
        assert_close([mine.logits[real]], [theirs.logits[real]])
    engine.backward(mine.loss)
    gradients = models.gradients(engine)
    assert gradients["model.embed_tokens.weight"] is None
    assert gradients["lm_head.weight"].isnan().any()
    assert gradients["model.layers.1.mlp.gate.weight"].isnan().any()


@case(sizes=(1, 2))
def routers_without_a_bias_are_refused(ranks: Ranks) -> None:
    with pytest.raises(autoep.ModelError, match=r"layers\.0\.mlp.*no selection bias.*Remove"):
        start(models.tiny("mixtral"), expert_parallel={"load_balance_coeff": 1e-3})
    start(models.tiny("mixtral"), expert_parallel={"load_balance_coeff": 0.0})
