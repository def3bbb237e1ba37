"""What the engine does besides the numbers: reruns, optimizers, loaders, generate, errors."""

from __future__ import annotations

import copy
import io
import os
from functools import partial
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from support import models
from support.cases import Ranks, case
from support.compare import assert_close
from support.engines import ADAMW, BF16, full, start, train
from torch import nn
from torch.distributed.tensor import DTensor, Shard
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, IterableDataset

import autoep
from autoep import functional
from autoep.distributed.launch import join_world


@case(bf16=BF16, ep_size=[1, 2, 4])
def a_rerun_has_the_same_bits(ranks: Ranks, bf16: bool, ep_size: int) -> None:
    runs = []
    for _ in range(2):
        engine = full(ranks, bf16, ep_size)
        torch.manual_seed(ranks.rank)
        runs.append((train(engine, ranks, range(3)), models.bits(engine)))
    assert runs[0] == runs[1]


@case(reentrant=[False, True], bf16=BF16, ep_size=[1, 2, 4])
def recomputed_activations_change_nothing(
    ranks: Ranks, reentrant: bool, bf16: bool, ep_size: int
) -> None:
    runs = []
    for recomputes in (False, True):
        engine = full(ranks, bf16, ep_size)
        if recomputes:
            engine.module.gradient_checkpointing_enable({"use_reentrant": reentrant})
        torch.manual_seed(ranks.rank)
        losses = train(engine, ranks, range(2), use_cache=False)
        runs.append((losses, models.bits(engine), engine.expert_load().tolist()))
    assert runs[0] == runs[1]


@case(ep_size=[1, 2, 4])
def evaluation_leaves_no_trace(ranks: Ranks, ep_size: int) -> None:
    model = models.tiny("deepseek_v3", dtype=torch.float64)
    plain = models.tiny("deepseek_v3", dtype=torch.float64).eval()
    engine = start(model, ep_size, optimizer=ADAMW).eval()
    mine = models.batch(ranks.rank, length=5 + ranks.rank)
    before = models.bits(engine)
    with torch.no_grad():
        output = engine(**mine)
        assert_close([output.logits], [plain(**mine).logits])
    assert not output.logits.requires_grad
    assert models.bits(engine) == before
    assert engine.expert_load().sum() == 0
    assert not engine.training
    assert engine.train().module.training


@case(ep_size=[1, 2, 4])
def generate_waits_for_the_longest(ranks: Ranks, ep_size: int) -> None:
    """Ranks generate different numbers of tokens from prompts of different lengths."""
    plain = models.tiny("qwen3_moe", use_cache=True).eval()
    engine = start(models.tiny("qwen3_moe", use_cache=True), ep_size).eval()
    prompt = models.batch(ranks.rank, rows=1, length=3 + ranks.rank)["input_ids"]
    options = {"max_new_tokens": 4 + 3 * ranks.rank, "do_sample": False, "pad_token_id": 0}
    found = engine.generate(prompt, **options)
    assert torch.equal(found, plain.generate(prompt, **options))
    for synced in (False, True)[: ranks.size]:
        assert torch.equal(engine.module.generate(prompt, synced_gpus=synced, **options), found)


@case(how=["static", "no cache", "beams", "samples", "adapted"], ep_size=[1, 2, 4])
def ranks_generate_as_many_tokens_as_each_wants(ranks: Ranks, how: str, ep_size: int) -> None:
    """Those that have finished go on with the others, whatever the cache; and can start again."""
    options = {
        "static": {"cache_implementation": "static"},
        "no cache": {"use_cache": False},
        "beams": {"num_beams": 3},
        "samples": {"do_sample": True},
        "adapted": {},
    }[how]
    model = models.tiny("qwen3_moe", use_cache=True)
    if how == "adapted":
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    plain = copy.deepcopy(model).eval()
    engine = start(model, ep_size).eval()
    for longest in (0, ranks.size - 1):
        new = 2 + 5 * abs(longest - ranks.rank)
        prompt = models.batch(ranks.rank, rows=2, length=3 + ranks.rank)["input_ids"]
        given = {"input_ids": prompt, "max_new_tokens": new, "pad_token_id": 0, **options}
        torch.manual_seed(ranks.rank)
        found = engine.generate(**given)
        torch.manual_seed(ranks.rank)
        assert torch.equal(found, plain.generate(**given))
        assert found.shape[1] == prompt.shape[1] + new


@case(ep_size=[1])
def a_rank_with_all_experts_generates_alone(ranks: Ranks, ep_size: int) -> None:
    engine = start(models.tiny("mixtral", use_cache=True), ep_size).eval()
    if ranks.rank == 0:
        prompt = models.batch(0, rows=1, length=3)["input_ids"]
        assert engine.generate(input_ids=prompt, max_new_tokens=4, pad_token_id=0).shape[1] == 7


@case(preset=["mixtral", "deepseek_v3"], ep_size=[1, 2, 4])
def a_copy_of_the_model_is_a_model_of_its_own(ranks: Ranks, preset: str, ep_size: int) -> None:
    """It computes the same, trains its own weights, and shares nothing but the ranks."""
    engine = start(models.tiny(preset), ep_size, optimizer=ADAMW)
    twin = copy.deepcopy(engine.module)
    mine = models.batch(ranks.rank)
    assert torch.equal(twin(**mine).logits, engine(**mine).logits)
    before = models.bits(engine)
    twin(**mine).loss.backward()
    assert all(p.grad is None for p in engine.module.parameters())
    assert all(p.grad is not None for p in twin.parameters())
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.sub_(0.1 * parameter.grad)
    assert models.bits(engine) == before
    assert not torch.equal(twin(**mine).logits, engine(**mine).logits)
    train(engine, ranks, range(1))
    options = {"max_new_tokens": 2 + ranks.rank, "do_sample": False, "pad_token_id": 0}
    prompt = mine["input_ids"]
    assert engine.module.generate(prompt, **options).shape[1] == prompt.shape[1] + 2 + ranks.rank
    assert twin.generate(prompt, **options).shape[1] == prompt.shape[1] + 2 + ranks.rank


@case(ep_size=[1, 2, 4])
def weights_can_be_averaged(ranks: Ranks, ep_size: int) -> None:
    model = models.tiny("mixtral", dtype=torch.float64)
    plain = models.PlainRun(copy.deepcopy(model), partial(torch.optim.AdamW, **ADAMW["params"]))
    engine = start(model, ep_size, optimizer=ADAMW)
    mine, theirs = AveragedModel(engine.module), AveragedModel(plain.model)
    for step in range(3):
        plain.backward(models.micro_batches(step, 1, ranks.size))
        plain.step()
        train(engine, ranks, range(step, step + 1))
        mine.update_parameters(engine.module)
        theirs.update_parameters(plain.model)
    batch = models.batch(ranks.rank)
    assert_close([mine(**batch).logits], [theirs(**batch).logits])


@case(ep_size=[1, 2, 4])
def what_cannot_be_saved_says_so(ranks: Ranks, ep_size: int) -> None:
    """On every rank, and on one alone; nothing is written."""
    engine = start(models.tiny("qwen3_moe"), ep_size)
    with pytest.raises(autoep.UnsupportedError, match="state_dict"):
        torch.save(engine.module, io.BytesIO())
    if ranks.size == 1:
        engine.module.save_pretrained(ranks.folder / "whole")
        return
    folder = ranks.folder / "model"
    for asked in (range(ranks.size), [0]):
        if ranks.rank in asked:
            with pytest.raises(autoep.UnsupportedError, match=r"spread over ranks.*on every rank"):
                engine.module.save_pretrained(folder)
    with pytest.raises(autoep.UnsupportedError, match="push_to_hub: the experts"):
        engine.module.push_to_hub("nobody/nothing")
    assert not folder.exists()
    adapted = get_peft_model(models.tiny("qwen3_moe"), LoraConfig(target_modules=["q_proj"]))
    module = start(adapted, ep_size).module
    with pytest.raises(autoep.UnsupportedError, match="spread over ranks"):
        module.get_base_model().save_pretrained(folder)
    if ranks.rank == 0:
        module.save_pretrained(folder)
        assert (folder / "adapter_model.safetensors").exists()


@case()
def an_optimizer_of_the_caller_is_pointed_anew(ranks: Ranks) -> None:
    model = models.tiny("mixtral", dtype=torch.float64)
    plain = models.PlainRun(models.tiny("mixtral", dtype=torch.float64))

    def grouped(model: nn.Module) -> torch.optim.Optimizer:
        experts = [p for name, p in model.named_parameters() if ".experts." in name]
        others = [p for name, p in model.named_parameters() if ".experts." not in name]
        groups = [
            {"params": others[:3] + experts[:1]},
            {"params": others[3:] + experts[1:], "lr": 1e-3, "weight_decay": 0.3, "name": "b"},
        ]
        return torch.optim.AdamW(groups, lr=1e-2)

    plain.optimizer = grouped(plain.model)
    optimizer = grouped(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    theirs = torch.optim.lr_scheduler.StepLR(plain.optimizer, 1, 0.5)
    config = {"expert_parallel": {"enabled": True}}
    engine, given, loader, scheduler = autoep.initialize(
        model=model, optimizer=optimizer, lr_scheduler=schedule, config=config
    )
    assert (given, scheduler, loader) == (optimizer, schedule, None)
    assert [len(group["params"]) for group in optimizer.param_groups] == [
        len(group["params"]) for group in plain.optimizer.param_groups
    ]
    for step in range(3):
        batches = models.micro_batches(step, 1, ranks.size)
        plain.backward(batches)
        engine.backward(engine(**batches[0][ranks.rank]).loss)
        engine.step()
        plain.step()
        theirs.step()
    assert engine.get_lr() == [group["lr"] for group in plain.optimizer.param_groups]
    assert optimizer.param_groups[1]["name"] == "b"
    models.assert_same_weights(engine, plain.model)


@case()
def optimizers_that_do_not_fit_are_refused(ranks: Ranks) -> None:
    model = models.tiny("mixtral")
    stepped = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(**models.batch(0)).loss.backward()
    stepped.step()
    with pytest.raises(autoep.ModelError, match="already has state"):
        autoep.initialize(model=model, optimizer=stepped, config={})
    foreign = torch.optim.SGD([nn.Parameter(torch.zeros(3))], lr=0.1)
    with pytest.raises(autoep.ModelError, match="not in the model"):
        autoep.initialize(model=models.tiny("mixtral"), optimizer=foreign, config={})
    if ranks.size > 1:
        model = models.tiny("mixtral")
        fused = torch.optim.AdamW(model.parameters(), foreach=True)
        with pytest.raises(autoep.ModelError, match="group of their own"):
            autoep.initialize(model=model, optimizer=fused, config={})


@case(kind=["fused", "foreach"])
def fused_optimizers_step_sharded_experts(ranks: Ranks, kind: str) -> None:
    """Made by the configuration, or by a function from groups that keep the experts apart."""
    params = {"lr": 1e-2, kind: True}
    tiny = partial(models.tiny, "mixtral", dtype=torch.float64)
    weights = []
    for way in ("named", "made"):
        config = {"optimizer": {"type": "adamw", "params": params}} if way == "named" else {}
        make = partial(torch.optim.AdamW, **params) if way == "made" else None
        engine, *_ = autoep.initialize(model=tiny(), optimizer=make, config=config)
        train(engine, ranks, range(2))
        weights.append(models.bits(engine))
    assert weights[0] == weights[1]
    plain = models.PlainRun(tiny(), partial(torch.optim.AdamW, **params))
    for step in range(2):
        plain.backward(models.micro_batches(step, 1, ranks.size))
        plain.step()
    models.assert_same_weights(engine, plain.model)


@case()
def only_the_given_parameters_are_trained(ranks: Ranks) -> None:
    model = models.tiny("mixtral")
    given = [p for name, p in model.named_parameters() if ".gate." in name or ".experts." in name]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine, *_ = autoep.initialize(
        model=model,
        model_parameters=[{"params": given, "lr": 1e-2}],
        config={"optimizer": {"type": "SGD"}, "bf16": {"enabled": False}},
    )
    train(engine, ranks, range(1))
    for name, parameter in engine.module.named_parameters():
        expected = models.own_part(engine, name, before[name])
        is_given = ".gate." in name or ".experts." in name
        changed = not torch.equal(models.local_shard(parameter.detach()), expected)
        assert changed == (is_given and expected.numel() > 0), name


@case(sizes=(2, 4))
def ranks_start_from_the_weights_of_rank_0(ranks: Ranks) -> None:
    engine = start(models.tiny("deepseek_v3", seed=100 + ranks.rank))
    plain = models.tiny("deepseek_v3", seed=100)
    for name, parameter in engine.module.named_parameters():
        expected = models.own_part(engine, name, plain.get_parameter(name))
        assert torch.equal(models.local_shard(parameter), expected), name
    for name, buffer in engine.module.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name


@case(sizes=(2, 4))
def experts_are_sharded_and_the_rest_is_freed(ranks: Ranks) -> None:
    model = models.tiny("mixtral")
    experts = model.model.layers[0].mlp.experts
    whole = experts.gate_up_proj
    engine = start(model, 2)
    sharded = engine.module.model.layers[0].mlp.experts.gate_up_proj
    assert isinstance(sharded, DTensor)
    assert sharded.shape == (8, 48, 32)
    assert sharded.to_local().shape == (4, 48, 32)
    assert whole.untyped_storage().nbytes() == 0
    rows = {row.name: row for row in engine.parameter_table}
    row = rows["model.layers.0.mlp.experts.gate_up_proj"]
    assert row.computing is row.master is sharded
    assert (row.is_expert, row.mesh.size(), row.placements) == (True, 2, (Shard(0),))
    assert {row.is_expert for row in rows.values() if row.mesh is None} == {False}
    assert engine.groups.mesh.shape == (ranks.size // 2, 2)


@case()
def sinkhorn_replaces_the_choice_alone(ranks: Ranks) -> None:
    model = models.tiny("mixtral", output_router_logits=True, router_aux_loss_coef=0.1)
    gate = model.model.layers[0].mlp.gate
    seen: list[tuple[torch.Tensor, ...]] = []
    gate.register_forward_hook(lambda module, given, routed: seen.append(routed))
    engine = start(model, expert_parallel={"router": "sinkhorn"}, optimizer=ADAMW)
    assert engine.module.model.layers[0].mlp.gate is gate
    for training in (True, False):
        output = engine.train(training)(**models.batch(ranks.rank))
        logits, weights, idx = seen[-1]
        assert torch.equal(output.router_logits[0], logits)
        expected = functional.route(logits.detach(), 2, score="sinkhorn", training=training)
        assert torch.equal(idx, expected.topk_idx.long())
        assert torch.equal(weights, expected.topk_weights)
        plain = logits.topk(2).indices.sort().values
        assert torch.equal(idx.sort().values, plain) != training
        if training:
            engine.backward(output.loss)
            assert gate.weight.grad.norm() > 0
            engine.step()
            balanced = engine.expert_load()[0]
            unbalanced = plain.flatten().bincount(minlength=8)
            if ranks.size == 1:
                assert balanced.max() < unbalanced.max()


@case()
def the_load_counts_every_choice_once(ranks: Ranks) -> None:
    engine = start(models.tiny("mixtral"), optimizer=ADAMW, gradient_accumulation_steps=2)
    train(engine, ranks, range(2))
    load = engine.expert_load()
    assert load.shape == (2, 8)
    assert load.sum(dim=1).tolist() == [ranks.size * 2 * 24 * 2] * 2


class Samples(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.full((4,), index), "labels": torch.full((4,), index)}


class Stream(IterableDataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self):
        return (Samples(self.count)[index] for index in range(self.count))


def loader_of(data, **config):
    config["train_micro_batch_size_per_gpu"] = 2
    return autoep.initialize(model=models.tiny("mixtral"), training_data=data, config=config)[2]


@case()
def a_dataset_is_split_evenly_and_shuffled_anew(ranks: Ranks) -> None:
    loader = loader_of(Samples(13), seed=3)
    epochs = [[batch["input_ids"][:, 0].tolist() for batch in loader] for _ in range(2)]
    assert epochs[0] != epochs[1]
    everyone: list = [epochs] * ranks.size
    if ranks.size > 1:
        dist.all_gather_object(everyone, epochs)
    for epoch in range(2):
        parts = [of_rank[epoch] for of_rank in everyone]
        assert len({len(part) for part in parts}) == 1
        assert {sample for part in parts for batch in part for sample in batch} == set(range(13))
    assert len(loader_of(Samples(13), dataloader_drop_last=True)) == -(-13 // ranks.size) // 2


@case()
def uneven_batches_end_together(ranks: Ranks) -> None:
    for data in (Stream(6 + 4 * ranks.rank), DataLoader(Samples(6 + 4 * ranks.rank), 2)):
        loader = loader_of(data)
        assert [len(list(loader)) for _ in range(2)] == [3, 3]
    with pytest.raises(autoep.ConfigError, match="collate_fn"):
        autoep.initialize(
            model=models.tiny("mixtral"),
            training_data=DataLoader(Samples(4)),
            collate_fn=list,
            config={},
        )


@case()
def without_expert_parallelism_the_model_is_left_alone(ranks: Ranks) -> None:
    model = models.tiny("mixtral", dtype=torch.float64)
    plain = models.PlainRun(models.tiny("mixtral", dtype=torch.float64))
    engine = start(model, expert_parallel={"enabled": False}, optimizer=ADAMW)
    batches = models.micro_batches(0, 1, ranks.size)
    plain.backward(batches)
    engine.backward(engine(**batches[0][ranks.rank]).loss)
    models.assert_same_gradients(engine, plain.model)
    assert not any(isinstance(p, DTensor) for p in engine.module.parameters())
    engine.step()
    assert engine.expert_load().numel() == 0


@case()
def a_size_that_does_not_divide_the_ranks_is_refused(ranks: Ranks) -> None:
    with pytest.raises(autoep.ConfigError, match=r"autoep_size: given 3; allowed with \d ranks: 1"):
        start(models.tiny("mixtral"), 3)
    with pytest.raises(autoep.ConfigError, match=rf"a multiple of {2 * ranks.size}"):
        start(
            models.tiny("mixtral"),
            train_batch_size=2 * ranks.size + 1,
            train_micro_batch_size_per_gpu=2,
        )


@case()
def ranks_divide_the_cores(ranks: Ranks) -> None:
    """Nobody has chosen: the engine's threads (and torch's under mpirun) fit the cores."""
    torch_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(64)
        with mock.patch.dict(os.environ):
            for name in ("AUTOEP_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                os.environ.pop(name, None)
            start(models.tiny("mixtral"))
        mine = (os.sched_getaffinity(0), functional.num_threads(), torch.get_num_threads())
        everyone: list = [mine] * ranks.size
        if ranks.size > 1:
            dist.all_gather_object(everyone, mine)
        cores = set().union(*(affinity for affinity, _, _ in everyone))
        fits = max(ranks.size, len(cores))
        assert sum(threads for _, threads, _ in everyone) <= fits
        by_mpi = join_world(60.0).mpi
        assert not by_mpi or sum(threads for _, _, threads in everyone) <= fits
        start(models.tiny("mixtral"), expert_parallel={"num_threads": 3})
        assert functional.num_threads() == 3
    finally:
        torch.set_num_threads(torch_threads)
        functional.set_num_threads(1)
