"""Training over several GPUs, beside plain HF on one."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch
import torch.distributed as dist
from support import models
from support.cases import Ranks, case
from support.compare import assert_as_good, assert_same_bits
from support.engines import ADAMW, start, train

import autoep
from autoep.training.engine import Engine

torch.backends.cuda.matmul.allow_tf32 = False
SGD = {"lr": 0.1, "momentum": 0.9}
Batch = models.Batch


def on_gpu(batch: Batch) -> Batch:
    return {name: tensor.cuda() for name, tensor in batch.items()}


class PlainRuns:
    """Plain HF in float32 on this rank's GPU, and in float64, on the batches of all ranks."""

    def __init__(self, ranks: Ranks, preset: str, **changes: object) -> None:
        torch.cuda.set_device(ranks.rank)
        sgd = partial(torch.optim.SGD, **SGD)
        self.plain, self.exact = (
            models.PlainRun(model, sgd, clipping=0.5)
            for model in (
                models.tiny(preset, **changes).cuda(),
                models.tiny(preset, dtype=torch.float64, **changes),
            )
        )

    def backward(self, batches: list[list[Batch]]) -> None:
        self.exact.backward(batches)
        self.plain.backward([[on_gpu(one) for one in of_ranks] for of_ranks in batches])

    def step(self) -> None:
        self.plain.step()
        self.exact.step()

    def check_gradients(self, engine: Engine) -> None:
        """Compares this rank's parts of the gradients."""
        mine = models.gradients(engine)
        names = [name for name, gradient in mine.items() if gradient is not None]
        theirs = [
            [models.own_part(engine, name, run.model.get_parameter(name).grad) for name in names]
            for run in (self.plain, self.exact)
        ]
        assert_as_good([mine[name] for name in names], *theirs)

    def check_weights(self, engine: Engine) -> None:
        """Compares this rank's parts of the weights."""
        names = [name for name, _ in engine.module.named_parameters()]
        mine = [models.local_shard(engine.module.get_parameter(name).detach()) for name in names]
        theirs = [
            [
                models.own_part(engine, name, run.model.get_parameter(name).detach())
                for name in names
            ]
            for run in (self.plain, self.exact)
        ]
        assert_as_good(mine, *theirs)


def check_steps(ranks: Ranks, preset: str, ep_size: int, **changes: object) -> None:
    """Three steps of two micro-batches with clipping: gradients, norms and weights."""
    runs = PlainRuns(ranks, preset, **changes)
    engine = start(
        models.tiny(preset, **changes),
        ep_size,
        optimizer={"type": "SGD", "params": SGD},
        gradient_accumulation_steps=2,
        gradient_clipping=0.5,
    )
    assert engine.device == torch.device("cuda", ranks.rank)
    for step in range(3):
        batches = models.micro_batches(step, 2, ranks.size)
        runs.backward(batches)
        for micro, of_ranks in enumerate(batches):
            engine.backward(engine(**on_gpu(of_ranks[ranks.rank])).loss)
            if micro == 1:
                runs.check_gradients(engine)
            engine.step()
        norms = (engine.get_global_grad_norm(), runs.plain.norm, runs.exact.norm)
        assert_as_good(*([torch.tensor([norm]).double()] for norm in norms))
        runs.step()
    runs.check_weights(engine)


@case(preset=list(models.PRESET_NAMES), ep_size=[1, 2])
def steps_on_gpus_are_those_of_plain_hf(ranks: Ranks, preset: str, ep_size: int) -> None:
    check_steps(ranks, preset, ep_size)


@case(experts=[5, 3, 2], ep_size=[2])
def experts_need_not_divide_evenly_on_gpus(ranks: Ranks, experts: int, ep_size: int) -> None:
    """With 2 experts and K = 2 every token goes to both ranks."""
    check_steps(ranks, "mixtral", ep_size, experts=experts)


@case(ep_size=[2])
def all_tokens_may_go_to_one_rank(ranks: Ranks, ep_size: int) -> None:
    """Equal logits choose experts 0 and 1, so rank 1 receives no row."""
    model, exact = models.tiny("mixtral"), models.tiny("mixtral", dtype=torch.float64)
    plain = models.tiny("mixtral").cuda()
    with torch.no_grad():
        for layer in itertools.chain(*(m.model.layers for m in (model, exact, plain))):
            layer.mlp.gate.weight.zero_()
    engine = start(model, ep_size)
    batches = models.micro_batches(0, 1, ranks.size)
    runs = PlainRuns(ranks, "mixtral")
    runs.exact.model, runs.plain.model = exact, plain
    runs.backward(batches)
    engine.backward(engine(**on_gpu(batches[0][ranks.rank])).loss)
    runs.check_gradients(engine)


@case(ep_size=[1, 2], bf16=[False, True])
def a_run_on_gpus_repeats_bit_for_bit(ranks: Ranks, ep_size: int, bf16: bool) -> None:
    def weights() -> list[torch.Tensor]:
        engine = start(models.tiny("qwen3_moe"), ep_size, optimizer=ADAMW, bf16={"enabled": bf16})
        for step in range(2):
            (batches,) = models.micro_batches(step, 1, ranks.size)
            engine.backward(engine(**on_gpu(batches[ranks.rank])).loss)
            engine.step()
        return [models.local_shard(p.detach()).clone() for p in engine.module.parameters()]

    for first, second in zip(weights(), weights(), strict=True):
        assert_same_bits(first, second)


@case(ep_size=[1, 2])
def bf16_losses_on_gpus_are_within_its_spacing(ranks: Ranks, ep_size: int) -> None:
    plain = models.PlainRun(models.tiny("mixtral"), partial(torch.optim.AdamW, lr=1e-3))
    engine = start(
        models.tiny("mixtral"),
        ep_size,
        optimizer={"type": "AdamW", "params": {"lr": 1e-3, "weight_decay": 0.01}},
        bf16={"enabled": True},
    )
    errors = []
    for step in range(12):
        batches = models.micro_batches(step, 1, ranks.size)
        ((*theirs,),) = plain.backward(batches)
        plain.step()
        loss = engine(**on_gpu(batches[0][ranks.rank])).loss
        engine.backward(loss)
        engine.step()
        expected = theirs[ranks.rank].loss.item()
        errors.append(abs(loss.item() - expected) / expected)
    assert sorted(errors)[len(errors) // 2] <= 2**-8, errors


@case(ep_size=[1, 2])
def a_run_on_gpus_goes_on_from_a_checkpoint(ranks: Ranks, ep_size: int) -> None:
    def begin() -> Engine:
        return start(models.tiny("mixtral"), ep_size, optimizer=ADAMW, bf16={"enabled": True})

    folder = ranks.folder / f"ep{ep_size}"
    engine = begin()
    train(engine, ranks, range(2))
    engine.save_checkpoint(folder)
    expected = train(engine, ranks, range(2, 4))
    again = begin()
    again.load_checkpoint(folder)
    assert train(again, ranks, range(2, 4)) == expected


@case(ep_size=[2])
def a_model_on_its_gpu_stays_there(ranks: Ranks, ep_size: int) -> None:
    own = torch.device("cuda", ranks.size - 1 - ranks.rank)
    engine = start(models.tiny("mixtral").to(own), ep_size)
    assert engine.device == own
    batch = {name: tensor.to(own) for name, tensor in models.batch(0).items()}
    engine.backward(engine(**batch).loss)
    torch.cuda.set_device(ranks.rank)


@case()
def two_ranks_on_one_gpu_are_refused(ranks: Ranks) -> None:
    with pytest.raises(autoep.ModelError, match="ranks 0 and 1 are on the same GPU"):
        start(models.tiny("mixtral").to("cuda:0"), 2)
    assert dist.is_initialized()
