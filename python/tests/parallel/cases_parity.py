"""The same numbers as plain HF: logits, losses, gradients, norms, weights."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from support import models
from support.cases import Ranks, case
from support.compare import assert_close
from support.engines import ADAMW, start
from support.models import PRESET_NAMES, PlainRun
from torch import nn

from autoep.training.engine import Engine

DTYPES = {"f64": torch.float64, "f32": torch.float32}
ADAM = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
SGD = {"lr": 1e-2, "momentum": 0.9}
SLOW_ADAM = {"lr": 1e-3, "weight_decay": 0.1}


@functools.cache
def plain_step(preset: str, dtype: str, size: int) -> tuple[PlainRun, list[Any]]:
    """Plain HF after a backward, and its outputs of each rank; once for every `ep_size`."""
    plain = PlainRun(models.tiny(preset, dtype=DTYPES[dtype]))
    (outputs,) = plain.backward(models.micro_batches(0, 1, size))
    return plain, outputs


class Trained(NamedTuple):
    """A training in plain HF that has ended.

    Attributes:
        model: The model, trained.
        losses: The losses of each micro-batch: [step][micro][rank].
        norms: The norm of the gradients of each step.
    """

    model: nn.Module
    losses: list[list[list[torch.Tensor]]]
    norms: list[float]


def train_plain(
    preset: str,
    dtype: str,
    size: int,
    *,
    steps: int,
    make_optimizer: Callable[..., torch.optim.Optimizer],
    clipping: float = 0.0,
    accumulation: int = 1,
) -> Trained:
    plain = PlainRun(models.tiny(preset, dtype=DTYPES[dtype]), make_optimizer, clipping)
    losses, norms = [], []
    for step in range(steps):
        outputs = plain.backward(models.micro_batches(step, accumulation, size))
        losses.append([[one.loss.detach() for one in of_ranks] for of_ranks in outputs])
        norms.append(plain.norm)
        plain.step()
    return Trained(plain.model, losses, norms)


# What plain HF comes to does not depend on `ep_size`: it is computed once for all of them.
plain_adam = functools.cache(
    partial(train_plain, steps=3, make_optimizer=ADAM, clipping=0.5, accumulation=2)
)
plain_sgd = functools.cache(
    partial(train_plain, steps=3, make_optimizer=partial(torch.optim.SGD, **SGD))
)
plain_slow_adam = functools.cache(
    partial(
        train_plain,
        steps=12,
        make_optimizer=partial(torch.optim.AdamW, **SLOW_ADAM),
        clipping=1.0,
        accumulation=2,
    )
)


@case(preset=list(PRESET_NAMES), dtype=list(DTYPES), ep_size=[1, 2, 4], bitwise=[True, False])
def one_step_is_that_of_plain_hf(
    ranks: Ranks, preset: str, dtype: str, ep_size: int, bitwise: bool
) -> None:
    """Also where a token travels once per rank, and its rows are added up there."""
    plain, theirs = plain_step(preset, dtype, ranks.size)
    engine = start(
        models.tiny(preset, dtype=DTYPES[dtype]),
        ep_size,
        optimizer=ADAMW,
        expert_parallel={"bitwise_across_ep_sizes": bitwise},
    )
    assert ranks.size == 1 or engine.groups.comm.dispatch == ("slots" if bitwise else "tokens")
    mine = engine(**models.batch(ranks.rank))
    engine.backward(mine.loss)
    assert_close([mine.logits, mine.loss], [theirs[ranks.rank].logits, theirs[ranks.rank].loss])
    models.assert_same_gradients(engine, plain.model)
    engine.step()
    models.assert_close_numbers(engine.get_global_grad_norm(), plain.norm, DTYPES[dtype])


@case(preset=list(PRESET_NAMES), ep_size=[1, 2, 4])
def several_steps_are_those_of_plain_hf(ranks: Ranks, preset: str, ep_size: int) -> None:
    """Accumulation, clipping and AdamW, in f64, where nothing hides behind rounding."""
    plain = plain_adam(preset, "f64", ranks.size)
    clipping = 0.5
    engine = start(
        models.tiny(preset, dtype=torch.float64),
        ep_size,
        optimizer=ADAMW,
        gradient_accumulation_steps=2,
        gradient_clipping=clipping,
    )
    for step in range(3):
        batches = models.micro_batches(step, 2, ranks.size)
        assert plain.norms[step] > clipping
        for micro in range(2):
            loss = engine(**batches[micro][ranks.rank]).loss
            assert_close([loss], [plain.losses[step][micro][ranks.rank]])
            engine.backward(loss)
            engine.step()
        norm = engine.get_global_grad_norm()
        models.assert_close_numbers(norm, plain.norms[step], torch.float64)
        assert len(set(of_all_ranks(norm))) == 1
    assert engine.global_steps == 3
    models.assert_same_weights(engine, plain.model)


@case(preset=list(PRESET_NAMES), ep_size=[1, 2, 4])
def several_steps_in_f32_are_those_of_plain_hf(ranks: Ranks, preset: str, ep_size: int) -> None:
    """With SGD, which does not magnify the rounding of small gradients as Adam does."""
    plain = plain_sgd(preset, "f32", ranks.size)
    engine = start(models.tiny(preset), ep_size, optimizer={"type": "SGD", "params": SGD})
    for step in range(3):
        batches = models.micro_batches(step, 1, ranks.size)
        loss = engine(**batches[0][ranks.rank]).loss
        assert_close([loss], [plain.losses[step][0][ranks.rank]])
        engine.backward(loss)
        engine.step()
        norm = engine.get_global_grad_norm()
        models.assert_close_numbers(norm, plain.norms[step], torch.float32)
    models.assert_same_weights(engine, plain.model)


def of_all_ranks(value: Any) -> list[Any]:
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@case(preset=["mixtral", "qwen3_moe"], ep_size=[1, 2, 4])
def aux_loss_is_that_of_plain_hf(ranks: Ranks, preset: str, ep_size: int) -> None:
    model = models.tiny(
        preset, dtype=torch.float64, output_router_logits=True, router_aux_loss_coef=0.1
    )
    plain = PlainRun(copy.deepcopy(model))
    engine = start(model, ep_size)
    batches = models.micro_batches(0, 1, ranks.size)
    (of_ranks,) = plain.backward(batches)
    theirs = of_ranks[ranks.rank]
    mine = engine(**batches[0][ranks.rank])
    engine.backward(mine.loss)
    assert theirs.aux_loss > 0
    assert_close(
        [mine.loss, mine.aux_loss, *mine.router_logits],
        [theirs.loss, theirs.aux_loss, *theirs.router_logits],
    )
    models.assert_same_gradients(engine, plain.model)


@case(preset=list(PRESET_NAMES), ep_size=[1, 2, 4], fused_router=[False, True])
def bf16_losses_are_within_its_spacing(
    ranks: Ranks, preset: str, ep_size: int, fused_router: bool
) -> None:
    """Over several steps, the median loss is off by less than bfloat16's spacing from f32's.

    With the model's own routers on each rank, over enough losses for a median; with fused ones,
    which choose another of equal logits than torch's, over all ranks.
    """
    plain = plain_slow_adam(preset, "f32", ranks.size)
    engine = start(
        models.tiny(preset),
        ep_size,
        optimizer={"type": "AdamW", "params": SLOW_ADAM},
        bf16={"enabled": True},
        gradient_accumulation_steps=2,
        gradient_clipping=1.0,
        expert_parallel={"fused_router": fused_router},
    )
    errors = []
    for step in range(4 if fused_router else 12):
        batches = models.micro_batches(step, 2, ranks.size)
        for micro in range(2):
            mine = engine(**batches[micro][ranks.rank])
            assert mine.logits.dtype == torch.bfloat16
            expected = plain.losses[step][micro][ranks.rank].item()
            errors.append(abs(mine.loss.item() - expected) / expected)
            engine.backward(mine.loss)
            engine.step()
    compared = of_all_ranks(errors) if fused_router else [errors]
    together = sorted(itertools.chain.from_iterable(compared))
    assert together[len(together) // 2] <= 2**-8, together
    assert {s["exp_avg"].dtype for s in engine.optimizer.state.values()} == {torch.float32}


@case(ep_size=[1, 2, 4])
def bf16_gradients_add_up_in_f32(ranks: Ranks, ep_size: int) -> None:
    """Eight micro-batches at once give the mean of eight taken alone, not one rounded."""
    count = 8
    batches = models.micro_batches(0, count, ranks.size)

    def backward(engine: Engine, some: list[list[models.Batch]]) -> dict[str, torch.Tensor]:
        for of_ranks in some:
            engine.backward(engine(**of_ranks[ranks.rank]).loss)
            if some[-1] is not of_ranks:
                engine.step()
        return models.gradients(engine)

    together = start(
        models.tiny("mixtral"),
        ep_size,
        bf16={"enabled": True},
        gradient_accumulation_steps=count,
    )
    sums = {name: g.double() for name, g in backward(together, batches).items()}
    means = {name: torch.zeros_like(total) for name, total in sums.items()}
    for of_ranks in batches:
        alone = start(models.tiny("mixtral"), ep_size, bf16={"enabled": True})
        for name, gradient in backward(alone, [of_ranks]).items():
            assert gradient.dtype == torch.float32
            means[name] += gradient.double() / count
    assert_close(
        [total.float() for total in sums.values()], [mean.float() for mean in means.values()]
    )


@case(experts=[5, 3], ep_size=[2, 4])
def experts_need_not_divide_evenly(ranks: Ranks, experts: int, ep_size: int) -> None:
    """With 5 experts over 4 ranks the last rank has none; with 3 too."""
    model = models.tiny("mixtral", experts=experts, dtype=torch.float64)
    plain = PlainRun(copy.deepcopy(model), ADAM)
    engine = start(model, ep_size, optimizer=ADAMW)
    for step in range(2):
        batches = models.micro_batches(step, 1, ranks.size)
        plain.backward(batches)
        engine.backward(engine(**batches[0][ranks.rank]).loss)
        models.assert_same_gradients(engine, plain.model)
        engine.step()
        models.assert_close_numbers(engine.get_global_grad_norm(), plain.norm, torch.float64)
        plain.step()
    models.assert_same_weights(engine, plain.model)


@case(ep_size=[1, 2, 4])
def all_tokens_on_two_experts(ranks: Ranks, ep_size: int) -> None:
    """The others get zeros for gradients, also a rank that receives no token at all."""
    model = models.tiny("mixtral", dtype=torch.float64)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()  # equal logits: the same two experts for every token
    plain = PlainRun(copy.deepcopy(model))
    engine = start(model, ep_size, optimizer=ADAMW)
    batches = models.micro_batches(0, 1, ranks.size)
    plain.backward(batches)
    engine.backward(engine(**batches[0][ranks.rank]).loss)
    models.assert_same_gradients(engine, plain.model)
    engine.step()
    load = engine.expert_load()
    assert (load > 0).sum(dim=1).tolist() == [2, 2]
    assert load.sum(dim=1).tolist() == [2 * 24 * ranks.size] * 2


@case(ep_size=[1, 2, 4])
def every_expert_for_every_token(ranks: Ranks, ep_size: int) -> None:
    model = models.tiny("mixtral", experts=4, num_experts_per_tok=4, dtype=torch.float64)
    plain = PlainRun(copy.deepcopy(model))
    engine = start(model, ep_size)
    batches = models.micro_batches(0, 1, ranks.size)
    plain.backward(batches)
    engine.backward(engine(**batches[0][ranks.rank]).loss)
    models.assert_same_gradients(engine, plain.model)


@case(frozen=["experts", "dense", "all but the routers"], ep_size=[1, 2, 4])
def frozen_parameters_stay(ranks: Ranks, frozen: str, ep_size: int) -> None:
    model = models.tiny("mixtral", dtype=torch.float64)
    for name, parameter in model.named_parameters():
        kind = "experts" if ".experts." in name else "router" if ".gate." in name else "dense"
        stays = kind == frozen or (frozen == "dense" and kind == "router")
        parameter.requires_grad = not stays and (frozen[0] != "a" or kind == "router")
    plain = PlainRun(copy.deepcopy(model), ADAM)
    engine = start(model, ep_size, optimizer=ADAMW)
    for step in range(2):
        batches = models.micro_batches(step, 1, ranks.size)
        plain.backward(batches)
        engine.backward(engine(**batches[0][ranks.rank]).loss)
        models.assert_same_gradients(engine, plain.model)
        engine.step()
        plain.step()
    models.assert_same_weights(engine, plain.model)
