"""Scripts that are written in their own way: the numbers stay those of plain HF."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from support import models
from support.cases import Ranks, case
from support.compare import assert_close
from support.engines import ADAMW, start
from support.models import PlainRun
from torch import nn

import autoep
from autoep.errors import Error, ModelError


def started(ranks: Ranks, model, accumulation: int = 1):
    plain = PlainRun(copy.deepcopy(model), partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1))
    return plain, start(model, optimizer=ADAMW, gradient_accumulation_steps=accumulation)


@case()
def a_model_in_eval_mode_is_trained_too(ranks: Ranks) -> None:
    """As `from_pretrained` returns it."""
    model = models.tiny("mixtral", dtype=torch.float64).eval()
    plain, engine = started(ranks, model)
    for step in range(2):
        batches = models.micro_batches(step, 1, ranks.size)
        plain.backward(batches)
        engine.backward(engine(**batches[0][ranks.rank]).loss)
        models.assert_steps_agree(engine, plain)
    assert engine.expert_load().sum() > 0


@case()
def a_model_called_by_itself_is_trained_too(ranks: Ranks) -> None:
    plain, engine = started(ranks, models.tiny("mixtral", dtype=torch.float64))
    batches = models.micro_batches(0, 1, ranks.size)
    plain.backward(batches)
    engine.backward(engine.module(**batches[0][ranks.rank]).loss)
    models.assert_steps_agree(engine, plain)


@case()
def forwards_may_come_before_their_backwards(ranks: Ranks) -> None:
    plain, engine = started(ranks, models.tiny("mixtral", dtype=torch.float64), accumulation=2)
    batches = models.micro_batches(0, 2, ranks.size)
    plain.backward(batches)
    losses = [engine(**of_ranks[ranks.rank]).loss for of_ranks in batches]
    engine.backward(losses[0])
    engine.step()
    engine.backward(losses[1])
    models.assert_steps_agree(engine, plain)


@case()
def backwards_of_one_step_add_up(ranks: Ranks) -> None:
    """As torch's do: two losses, one step; the sum, where accumulation would take the mean."""
    plain, engine = started(ranks, models.tiny("mixtral", dtype=torch.float64))
    for seed in range(2):
        batches = models.micro_batches(seed, 1, ranks.size)
        plain.backward(batches)
        engine.backward(engine(**batches[0][ranks.rank]).loss)
    models.assert_steps_agree(engine, plain)


@case()
def a_loss_may_be_dropped(ranks: Ranks) -> None:
    plain, engine = started(ranks, models.tiny("mixtral", dtype=torch.float64))
    batches = models.micro_batches(0, 1, ranks.size)
    engine(**batches[0][ranks.rank])
    plain.backward(batches)
    engine.backward(engine(**batches[0][ranks.rank]).loss)
    engine(**batches[0][ranks.rank])
    models.assert_steps_agree(engine, plain)


@case()
def weights_need_not_be_row_major(ranks: Ranks) -> None:
    model = models.tiny("mixtral", dtype=torch.float64)
    for layer in model.model.layers:
        weight = layer.self_attn.q_proj.weight
        weight.data = weight.data.t().contiguous().t()
    plain, engine = started(ranks, model)
    batches = models.micro_batches(0, 1, ranks.size)
    plain.backward(batches)
    engine.backward(engine(**batches[0][ranks.rank]).loss)
    models.assert_steps_agree(engine, plain)


@case()
def gradients_that_were_averaged_take_no_more(ranks: Ranks) -> None:
    _, engine = started(ranks, models.tiny("mixtral"))
    batch = models.micro_batches(0, 1, ranks.size)[0][ranks.rank]
    engine.backward(engine(**batch).loss)
    engine.reduce_gradients()
    loss = engine(**batch).loss
    with pytest.raises(Error, match="reduce_gradients"):
        engine.backward(loss)


@case(unfreeze=[False, True])
def freezing_comes_before_initialize(ranks: Ranks, unfreeze: bool) -> None:
    model = models.tiny("mixtral")
    model.lm_head.weight.requires_grad = not unfreeze
    _, engine = started(ranks, model)
    batch = models.micro_batches(0, 1, ranks.size)[0][ranks.rank]
    engine.backward(engine(**batch).loss)
    model.lm_head.weight.requires_grad = unfreeze
    with pytest.raises(ModelError, match="freeze"):
        engine.step()


@case(sizes=(2, 4))
def a_model_is_distributed_once(ranks: Ranks) -> None:
    model = models.tiny("mixtral")
    start(model)
    with pytest.raises(ModelError, match="sharded already"):
        start(model)


@case(ep_size=[1, 2, 4])
def a_parameter_may_be_used_on_one_rank_only(ranks: Ranks, ep_size: int) -> None:
    class Sometimes(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model
            self.once = nn.Parameter(torch.ones(3))
            self.never = nn.Parameter(torch.ones(3))

        def forward(self, uses: bool, **batch: torch.Tensor) -> torch.Tensor:
            loss = self.model(**batch).loss
            return loss + self.once.sum() if uses else loss

    engine = start(Sometimes(models.tiny("mixtral")), ep_size, optimizer={"type": "SGD"})
    for step in range(3):
        engine.backward(engine(ranks.rank == 0, **models.batch(step)))
        engine.reduce_gradients()
        assert_close([engine.module.once.grad], [torch.full((3,), 1 / ranks.size)])
        assert engine.module.never.grad is None
        engine.step()


@case()
def steps_come_after_backwards(ranks: Ranks) -> None:
    engine = start(models.tiny("mixtral"), optimizer=ADAMW)
    with pytest.raises(Error, match="comes after"):
        engine.step()
    assert engine.get_global_grad_norm() is None
    assert engine.is_gradient_accumulation_boundary()
    bare = start(models.tiny("mixtral"))
    bare.backward(bare(**models.batch(0)).loss)
    with pytest.raises(Error, match="no optimizer"):
        bare.step()


@case()
def going_back_before_the_first_step_forgets_the_optimizer(ranks: Ranks) -> None:
    engine = start(models.tiny("mixtral"), optimizer=ADAMW)
    engine.save_checkpoint(ranks.folder)

    def step() -> dict[str, bytes]:
        batch = models.micro_batches(0, 1, ranks.size)[0][ranks.rank]
        engine.backward(engine(**batch).loss)
        engine.step()
        return models.bits(engine)

    first = step()
    step()
    engine.load_checkpoint(ranks.folder)
    assert step() == first


@case()
def a_checkpoint_keeps_the_order_of_the_next_epoch(ranks: Ranks) -> None:
    def begin():
        config = {"expert_parallel": {"timeout": 60.0}, "train_micro_batch_size_per_gpu": 2}
        data = list(range(32))
        return autoep.initialize(model=models.tiny("mixtral"), config=config, training_data=data)

    engine, _, loader, _ = begin()
    first = [batch.tolist() for batch in loader]
    engine.save_checkpoint(ranks.folder)
    second = [batch.tolist() for batch in loader]
    assert second != first
    resumed, _, loader, _ = begin()
    resumed.load_checkpoint(ranks.folder)
    assert [batch.tolist() for batch in loader] == second
