"""`autoep.initialize` on one rank: what it refuses, and what it makes of a configuration."""

from __future__ import annotations

import argparse
import copy
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from support import models
from torch import nn
from torch.optim import Optimizer

import autoep
from autoep.detection.find import find_moe_layers
from autoep.distributed import devices
from autoep.distributed.groups import choose_ep_size
from autoep.distributed.launch import World
from autoep.training.data import collate


def initialize(**arguments):
    arguments.setdefault("model", models.tiny("mixtral"))
    arguments.setdefault("config", {})
    return autoep.initialize(**arguments)


def rates(engine, steps: int) -> list[float]:
    """The rate of each of the next steps."""
    found = []
    for step in range(steps):
        found.append(engine.get_lr()[0])
        engine.backward(engine(**models.batch(step)).loss)
        engine.step()
    return found


class DenseModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(2, 2)])


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"model": None}, autoep.ModelError, "model: given NoneType"),
        ({"model": "mixtral"}, autoep.ModelError, "model: given str"),
        ({"model": DenseModel()}, autoep.ModelError, "no MoE layer.*another kind: ModuleList"),
        ({"mpu": object()}, autoep.ConfigError, "mpu: given"),
        ({"config": None}, autoep.ConfigError, "none was given"),
        ({"optimizer": 3}, autoep.ConfigError, "optimizer: given int"),
        ({"training_data": 3}, autoep.ConfigError, "training_data: given int"),
        ({"training_data": [1], "collate_fn": 3}, autoep.ConfigError, "collate_fn: given int"),
        ({"lr_scheduler": object()}, autoep.ConfigError, "without an optimizer"),
        ({"config": {"scheduler": {"type": "WarmupLR"}}}, autoep.ConfigError, "no optimizer"),
        (
            {"config": {"expert_parallel": {"preset_model": "qwen3_moe"}}},
            autoep.ModelError,
            "no MoE layer of qwen3_moe.*another kind: mixtral",
        ),
        ({"config": {"expert_parallel": {"autoep_size": 2}}}, autoep.ConfigError, "with 1 ranks"),
    ],
)
def test_a_wrong_argument_says_what_is_allowed(arguments, error, says: str) -> None:
    with pytest.raises(error, match=f"(?s){says}"):
        initialize(**arguments)


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ({"type": "AdamV"}, "type: given 'AdamV'.*mean \"Adam"),
        ({"type": "LBFGS"}, "given 'LBFGS', which cannot be used here: it computes the loss again"),
        ({"type": "adafactor"}, "norms of whole weights"),
        ({"params": {"lr": 1}}, "optimizer.type: missing"),
        ({"type": "AdamW", "params": {"learning_rate": 1}}, "params.learning_rate: AdamW has no"),
        (
            {"type": "AdamW", "params": {"lr": "1e-4"}},
            "params.lr: given '1e-4' .*: a number",
        ),
        (
            {"type": "SGD", "params": {"lr": True}},
            "params.lr: given True .*: a number",
        ),
        ({"type": "AdamW", "params": {"betas": ["0.9", 0.99]}}, "betas: given .*allowed: 2 numb"),
        ({"type": "AdamW", "params": {"betas": [0.9]}}, "betas: given .*allowed: 2 numbers"),
        ({"type": "AdamW", "params": {"amsgrad": "no"}}, "amsgrad: given 'no'.*true or false"),
        ({"type": "AdamW", "params": {"fused": "true"}}, "fused: given 'true'.*not a string"),
        ({"type": "Muon"}, "'Muon', which steps weights of two dimensions only; got some of 1, 3"),
        ({"type": "AdamW", "params": {"lr": -1}}, "AdamW refuses them: Invalid learning rate"),
        ({"type": "Adam", "params": {"weight_decay": 0.1}}, 'Write "AdamW"'),
    ],
)
def test_a_wrong_optimizer_is_refused(optimizer: dict, says: str) -> None:
    with pytest.raises(autoep.ConfigError, match=says):
        initialize(config={"optimizer": optimizer})


@pytest.mark.parametrize(
    ("scheduler", "says"),
    [
        ({"type": "WarmUp"}, "scheduler.type: given 'WarmUp'.*WarmupLR"),
        ({"type": "ReduceLROnPlateau"}, "it wants a metric.*Allowed: ConstantLR"),
        ({"type": "StepLR", "params": {"size": 1}}, "params.size: StepLR has no"),
        ({"type": "StepLR"}, "StepLR refuses them"),
        ({"type": "StepLR", "params": {"step_size": "3"}}, "step_size: given '3'.*not a string"),
        ({"type": "StepLR", "params": {"step_size": 3, "gamma": "0.1"}}, "gamma: given '0.1'"),
        ({"type": "WarmupLR", "params": {"warmup_max_lr": "1e-3"}}, "warmup_max_lr: given '1e-3'"),
        ({"type": "WarmupDecayLR"}, "total_num_steps: given None"),
        ({"type": "WarmupLR", "params": {"warmup_steps": 1}}, 'mean "warmup_num_steps"'),
        ({"type": "WarmupLR", "params": {"warmup_max_lr": 0}}, "warmup_max_lr: given 0"),
        ({"params": {"a": 1}}, "scheduler.type: missing"),
    ],
)
def test_a_wrong_scheduler_is_refused(scheduler: dict, says: str) -> None:
    config = {"optimizer": {"type": "SGD"}, "scheduler": scheduler}
    with pytest.raises(autoep.ConfigError, match=says):
        initialize(config=config)


@pytest.mark.parametrize(
    "given", [3, "weights", ["weight"], [{"lr": 1.0}], [{"params": 3}], [{"params": []}, 3]]
)
def test_wrong_model_parameters_are_refused(given: object) -> None:
    with pytest.raises(autoep.ModelError, match="model_parameters: expected"):
        initialize(model_parameters=given, config={"optimizer": {"type": "SGD"}})


def test_what_is_given_twice_is_refused() -> None:
    model = models.tiny("mixtral")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(autoep.ConfigError, match="optimizer: given to initialize, and named"):
        initialize(model=model, optimizer=sgd, config={"optimizer": {"type": "SGD"}})
    with pytest.raises(autoep.ConfigError, match="model_parameters: given with an optimizer"):
        initialize(model=model, optimizer=sgd, model_parameters=model.parameters())
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(other, 1)
    with pytest.raises(autoep.ConfigError, match="another optimizer"):
        initialize(model=model, optimizer=sgd, lr_scheduler=schedule)


def seats_found(monkeypatch: pytest.MonkeyPatch, *seats: devices.Seat) -> None:
    """Has the ranks be on these seats, and this one be the first of them."""

    def gather(found: list[devices.Seat], _: devices.Seat) -> None:
        found[:] = seats

    monkeypatch.setattr(devices.dist, "all_gather_object", gather)
    monkeypatch.setattr(devices, "_check_backends", lambda device: None)


def test_each_rank_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, world = torch.device("cpu"), World(0, 2, 0, mpi=False)
    assert devices.device_of_rank(cpu, World(0, 1, 0, mpi=False)) == cpu
    seats_found(monkeypatch, devices.Seat("a", ""), devices.Seat("a", ""))
    assert devices.device_of_rank(cpu, world) == cpu
    seats_found(monkeypatch, devices.Seat("a", ""), devices.Seat("b", "GPU-1"))
    with pytest.raises(autoep.ModelError, match="rank 0 sees no GPU and rank 1 does"):
        devices.device_of_rank(cpu, world)
    seats_found(monkeypatch, devices.Seat("a", "GPU-1"), devices.Seat("a", "GPU-1"))
    with pytest.raises(autoep.ModelError, match="ranks 0 and 1 are on the same GPU of a"):
        devices.device_of_rank(cpu, world)


class RowsOfLists:
    """A dataset as HuggingFace's: samples are dicts, and their values numbers and lists of them."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, object]:
        ids = models.batch(index, rows=1, length=self.lengths[index])["input_ids"][0].tolist()
        return {"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids), "text": "words"}


def test_samples_of_lists_are_collated_as_transformers_does() -> None:
    data = RowsOfLists([6] * 5)
    config = {"train_micro_batch_size_per_gpu": 2, "optimizer": {"type": "SGD"}}
    engine, _, loader, _ = autoep.initialize(models.tiny("mixtral"), config, training_data=data)
    shapes = []
    for batch in loader:
        assert list(batch) == ["input_ids", "labels", "attention_mask"]
        assert batch["input_ids"].dtype == torch.long
        shapes.append(tuple(batch["input_ids"].shape))
        engine.backward(engine(**batch).loss)
        engine.step()
    assert shapes == [(2, 6), (2, 6), (1, 6)]
    samples = [data[0], data[1]]
    expected = transformers.default_data_collator(samples)
    assert all(torch.equal(value, expected[name]) for name, value in collate(samples).items())
    labelled = [{"ids": [1, 2], "label": 3}, {"ids": [4, 5], "label": 0}]
    assert collate(labelled)["labels"].tolist() == [3, 0]


def test_other_samples_are_collated_as_torch_does() -> None:
    assert collate([{"a": torch.ones(2), "b": "x"}, {"a": torch.zeros(2), "b": "y"}])["b"] == [
        "x",
        "y",
    ]
    assert [part.tolist() for part in collate([(1, 2.0), (3, 4.0)])] == [[1, 3], [2.0, 4.0]]


def test_lists_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(autoep.ConfigError, match=r"'tokens', a list of str; .*Remove the column"):
        collate([{"input_ids": [1, 2], "tokens": ["a", "b"]}])


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(autoep.ConfigError, match=r"'input_ids' of lengths 4, 6; .*Padding"):
        collate([RowsOfLists([6, 4])[index] for index in range(2)])


def test_models_that_cannot_be_trained_are_refused() -> None:
    with pytest.raises(autoep.ModelError, match=r"bfloat16.*float32 training"):
        initialize(model=models.tiny("mixtral", dtype=torch.bfloat16))
    with torch.device("meta"):
        model = models.tiny("mixtral")
    with pytest.raises(autoep.ModelError, match=r"meta.*weights loaded"):
        initialize(model=model)
    model = models.tiny("mixtral")
    experts = model.model.layers[1].mlp.experts
    experts.down_proj = nn.Parameter(experts.down_proj[..., :5])
    with pytest.raises(autoep.ModelError, match=r"layers\.1\.mlp\.experts.*expected \[8, 10, 32"):
        initialize(model=model)


@pytest.mark.parametrize("preset", models.PRESET_NAMES)
def test_layers_are_found_with_and_without_the_preset(preset: str) -> None:
    model = models.tiny(preset, experts=6)
    found = find_moe_layers(model, preset)
    assert [layer.name for layer in found] == [layer.name for layer in find_moe_layers(model)]
    dense = 1 if preset.startswith("deepseek") else 0
    assert [layer.name for layer in found] == [f"model.layers.{i}.mlp" for i in range(dense, 2)]
    for layer in found:
        assert (layer.num_experts, layer.hidden_size, layer.ffn_size) == (6, 32, 24)
        assert layer.spec.activation == "silu"


def test_a_class_derived_from_a_familys_is_found() -> None:
    model = models.tiny("mixtral")
    experts = model.model.layers[0].mlp.experts
    experts.__class__ = type("MyExperts", (type(experts),), {})
    assert len(find_moe_layers(model)) == 2


@pytest.mark.parametrize(
    ("wanted", "world", "experts", "size"),
    [
        (None, 1, 8, 1),
        (None, 4, 8, 4),
        (None, 8, 6, 4),
        (None, 6, 5, 3),
        (2, 4, 8, 2),
        (8, 8, 3, 8),
    ],
)
def test_the_size_of_the_groups(wanted, world: int, experts: int, size: int) -> None:
    assert choose_ep_size(wanted, world, experts) == size


def test_args_may_name_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text('{"gradient_accumulation_steps": 3}')
    arguments = argparse.Namespace(deepspeed_config=str(path))
    engine, *_ = autoep.initialize(arguments, models.tiny("mixtral"))
    assert engine.gradient_accumulation_steps() == 3
    assert engine.train_batch_size() == 3


def test_the_model_may_come_first_by_position() -> None:
    config = {"gradient_accumulation_steps": 3, "optimizer": {"type": "SGD"}}
    engine, made, *_ = autoep.initialize(models.tiny("mixtral"), config)
    assert engine.gradient_accumulation_steps() == 3
    assert type(made) is torch.optim.SGD
    model = models.tiny("mixtral")
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, given, *_ = autoep.initialize(model, {}, sgd)
    assert given is sgd
    engine, *_ = autoep.initialize(models.tiny("mixtral"), config=config)
    assert engine.gradient_accumulation_steps() == 3
    engine, *_ = autoep.initialize(None, models.tiny("mixtral"), None, config=config)
    assert engine.gradient_accumulation_steps() == 3


@pytest.mark.parametrize(
    ("given", "named", "says"),
    [
        (("model", {}), {"config": {}}, "config: given twice, by position .dict. and by name"),
        (("model", {}), {"model": "model"}, r"model: given twice.*initialize\(model, config, opt"),
        (("args", "model"), {"model": "model"}, r"model: given twice.*initialize\(args, model"),
        (("args", "model"), {"config": {}}, "config: given twice.*args.deepspeed_config"),
        (("model", "model"), {}, "the configuration: given DenseModel"),
        (("model", {}), {"training_dat": 1}, 'training_dat: .*Did you mean "training_data"'),
        (("model", *[None] * 8), {}, "given 9 arguments by position; expected at most 8"),
    ],
)
def test_what_is_mixed_up_by_position_is_refused(given: tuple, named: dict, says: str) -> None:
    stand_for = {"model": DenseModel(), "args": argparse.Namespace(deepspeed_config="ds.json")}
    given = [stand_for.get(one, one) if isinstance(one, str) else one for one in given]
    named = {n: stand_for[v] if isinstance(v, str) else v for n, v in named.items()}
    with pytest.raises(autoep.ConfigError, match=says):
        autoep.initialize(*given, **named)


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        ({"type": "adamw"}, torch.optim.AdamW),
        ({"type": "Adam"}, torch.optim.Adam),
        ({"type": "Adam", "params": {"adam_w_mode": True, "weight_decay": 0.1}}, torch.optim.AdamW),
        ({"type": "Adam", "params": {"adam_w_mode": False, "weight_decay": 1}}, torch.optim.Adam),
        ({"type": "AdamW", "params": {"lr": "auto", "torch_adam": True}}, torch.optim.AdamW),
        ({"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}}, torch.optim.SGD),
        ({"type": "Adagrad"}, torch.optim.Adagrad),
        ({"type": "RMSprop"}, torch.optim.RMSprop),
    ],
)
def test_optimizers_of_torch_by_name(optimizer: dict, kind: type[Optimizer]) -> None:
    plain = models.tiny("mixtral")
    before = copy.deepcopy(plain.state_dict())
    engine, made, *_ = initialize(model=plain, config={"optimizer": optimizer})
    assert type(made) is kind
    engine.backward(engine(**models.batch(0)).loss)
    engine.step()
    assert not any(torch.equal(p, before[name]) for name, p in engine.module.named_parameters())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("way", ["named", "made", "given"])
def test_muon_steps_weights_of_two_dimensions(way: str) -> None:
    model = models.tiny("mixtral")
    before = copy.deepcopy(model.state_dict())
    matrices = [p for p in model.parameters() if p.ndim == 2]
    config = {"optimizer": {"type": "muon", "params": {"lr": 1e-2}}} if way == "named" else {}
    make = partial(torch.optim.Muon, lr=1e-2)
    engine, optimizer, *_ = autoep.initialize(
        model,
        config,
        {"named": None, "made": make, "given": make(matrices)}[way],
        model_parameters=None if way == "given" else iter(matrices),
    )
    assert type(optimizer) is torch.optim.Muon
    rates(engine, 1)
    for name, parameter in engine.module.named_parameters():
        assert torch.equal(parameter, before[name]) == (parameter.ndim != 2), name


def test_an_optimizer_and_a_scheduler_may_be_functions() -> None:
    engine, optimizer, _, scheduler = initialize(
        optimizer=partial(torch.optim.SGD, lr=0.5),
        lr_scheduler=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5),
    )
    assert scheduler.optimizer is optimizer is engine.optimizer
    assert rates(engine, 3) == [0.5, 0.25, 0.125]


def test_warmups_count_as_those_of_deepspeed() -> None:
    def of(scheduler: str, steps: int, **params) -> list[float]:
        config = {
            "optimizer": {"type": "SGD", "params": {"lr": 0.1}},
            "scheduler": {"type": scheduler, "params": params},
        }
        return rates(initialize(config=config)[0], steps)

    linear = {"warmup_num_steps": 4, "warmup_type": "linear", "warmup_max_lr": 0.4}
    assert of("WarmupLR", 8, **linear) == pytest.approx([0, 0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4])
    log = {"warmup_num_steps": 4, "warmup_min_lr": 0.02, "warmup_max_lr": "auto"}
    assert of("WarmupLR", 5, **log) == pytest.approx(
        [0.02 + 0.08 * math.log(max(1, n)) / math.log(4) for n in range(5)]
    )
    decay = of("WarmupDecayLR", 11, total_num_steps=8, **linear)
    assert decay[:5] == pytest.approx([0, 0, 0.1, 0.2, 0.3])
    assert decay[5:] == pytest.approx([0.4, 0.3, 0.2, 0.1, 0, 0])
    cosine = of("WarmupCosineLR", 10, total_num_steps=8, warmup_num_steps=4, cos_min_ratio=0.1)
    assert cosine[:5] == pytest.approx([0.1 * math.log(max(1, n)) / math.log(4) for n in range(5)])
    falls = [0.1 * (0.1 + 0.9 * (1 + math.cos(math.pi * n / 4)) / 2) for n in (1, 2, 3, 4, 4)]
    assert cosine[5:] == pytest.approx(falls)


def test_the_state_of_the_run_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    config = {"optimizer": {"type": "SGD", "params": {"lr": 0.25}}, "steps_per_print": 2}
    rates(initialize(config=config)[0], 5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["autoep: step 2", "autoep: step 4"]
    assert "lr 0.25, grad norm" in lines[0]


def test_buffers_and_what_transformers_keeps_stay_float32() -> None:
    model = models.tiny("deepseek_v3")
    model._keep_in_fp32_modules_strict = ["mlp.gate"]
    engine, *_ = initialize(model=model, config={"bf16": {"enabled": True}})
    for name, parameter in engine.module.named_parameters():
        expected = torch.float32 if ".mlp.gate." in name else torch.bfloat16
        assert parameter.dtype == expected, name
    assert {buffer.dtype for buffer in engine.module.buffers()} == {torch.float32}


def test_an_optimizer_of_the_caller_steps_float32_weights_in_bf16() -> None:
    model = models.tiny("mixtral")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    given = list(model.parameters())
    optimizer = torch.optim.SGD([{"params": given[:5]}, {"params": given[5:], "lr": 0.2}], lr=0.1)
    engine, *_ = initialize(model=model, optimizer=optimizer, config={"bf16": {"enabled": True}})
    rates(engine, 1)
    stepped = [p for group in optimizer.param_groups for p in group["params"]]
    for (name, computing), master in zip(engine.module.named_parameters(), stepped, strict=True):
        assert master.dtype == torch.float32
        assert not torch.equal(master, before[name]), name
        assert torch.equal(computing, master.bfloat16()), name


def test_tied_weights_stay_tied_in_bf16() -> None:
    model = models.tiny("mixtral", tie_word_embeddings=True)
    config = {"bf16": {"enabled": True}, "optimizer": {"type": "SGD", "params": {"lr": 0.1}}}
    engine, optimizer, *_ = initialize(model=model, config=config)
    assert engine.module.lm_head.weight is engine.module.model.embed_tokens.weight
    rates(engine, 1)
    masters = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(masters) == len(list(engine.module.parameters()))
    assert {p.dtype for p in masters} == {torch.float32}
