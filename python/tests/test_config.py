"""The configuration: every key is honoured, or refused with what was given and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import autoep
from autoep.config.custom_layers import CustomLayersConfig
from autoep.config.expert_parallel import ExpertParallelConfig
from autoep.config.training import BatchSizes, Config, read_config, resolve_batch_sizes


def test_a_path_a_dict_and_a_config_read_the_same(tmp_path: Path) -> None:
    given = {
        "train_batch_size": 8,
        "gradient_clipping": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95]}},
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 0},
        "expert_parallel": {"enabled": True, "autoep_size": 2, "preset_model": "mixtral"},
    }
    path = tmp_path / "ds_config.json"
    path.write_text(json.dumps(given))
    config = read_config(given)
    assert config == read_config(path) == read_config(str(path)) == read_config(config)
    assert config.gradient_clipping == 1.0
    assert config.expert_parallel.autoep_size == 2
    assert config.optimizer.params["betas"] == [0.9, 0.95]


def test_auto_takes_the_default() -> None:
    given = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": "auto", "overlap_comm": "auto"},
        "expert_parallel": {"autoep_size": "auto", "preset_model": "auto", "timeout": "auto"},
    }
    assert read_config(given) == Config()


def test_keys_of_custom_layers_are_one_record() -> None:
    """They stand among the keys of expert_parallel, and are no key together."""
    keys = {"moe_layer_pattern": "moe", "top_k": 2, "route_scale": "auto", "expert_w1": "gate"}
    config = read_config({"expert_parallel": {"autoep_size": 2, **keys}}).expert_parallel
    assert config == ExpertParallelConfig(
        autoep_size=2,
        custom_layers=CustomLayersConfig(moe_layer_pattern="moe", top_k=2, expert_w1="gate"),
    )
    with pytest.raises(autoep.ConfigError, match=r"parallel\.custom_layers: there is no such"):
        read_config({"expert_parallel": {"custom_layers": keys}})


def test_what_asks_for_nothing_is_accepted() -> None:
    given = {
        "fp16": {"enabled": False, "loss_scale": 0},
        "amp": {"enabled": "auto"},
        "wall_clock_breakdown": False,
        "prescale_gradients": False,
        "tensorboard": {"enabled": False},
        "compile": {"enabled": False},
        "expert_parallel": {"use_grouped_mm": True, "deterministic": True, "expert_w3": None},
    }
    assert read_config(given) == Config()
    read_config({"expert_parallel": {"route_scale": 1, "routed_scaling_factor": 1.0}})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"train_batchsize": 4}, ["train_batchsize: there is no", 'mean "train_batch_size"?']),
        ({"expert_parallel": {"autoep_sise": 2}}, ["expert_parallel.autoep_sise", "autoep_size"]),
        (
            {"expert_parallel": {"zzz": 2}},
            ["expert_parallel.zzz", "allowed here: enabled", "timeout, moe_layer_pattern, router_"],
        ),
        ({"expert_parallel": {"route_nrm": True}}, ["route_nrm", 'mean "route_norm"?']),
        ({"expert_parallel": {"autoep_size": "two"}}, ["autoep_size: given 'two' (str)", "whole"]),
        ({"expert_parallel": {"autoep_size": 0}}, ["given 0 (int)", "1 or more"]),
        ({"expert_parallel": {"autoep_size": True}}, ["given True (bool)"]),
        ({"expert_parallel": {"enabled": 1}}, ["enabled: given 1 (int)", "true or false"]),
        ({"expert_parallel": {"preset_model": 3}}, ["preset_model: given 3", "a string"]),
        ({"expert_parallel": {"router": "topk"}}, ["'model', 'sinkhorn'"]),
        ({"expert_parallel": {"load_balance_coeff": -1}}, ["load_balance_coeff: given -1"]),
        (
            {"expert_parallel": {"load_balance_coeff": 1e-3, "router": "sinkhorn"}},
            ["load_balance_coeff: given 0.001", "remove one of the two"],
        ),
        ({"expert_parallel": {"fused_router": "no"}}, ["fused_router", "true or false"]),
        ({"expert_parallel": {"timeout": 0}}, ["timeout: given 0", "above 0"]),
        ({"expert_parallel": {"timeout": float("inf")}}, ["timeout: given inf"]),
        ({"expert_parallel": {"deterministic": False}}, ["deterministic", "not supported"]),
        ({"expert_parallel": {"top_k": 4}}, ["top_k: given 4", "moe_layer_pattern"]),
        ({"expert_parallel": {"top_k": 1}}, ["top_k: given 1", "moe_layer_pattern"]),
        ({"expert_parallel": {"route_norm": True}}, ["route_norm: given True", "remove the key"]),
        ({"expert_parallel": {"has_shared_experts": True}}, ["has_shared_experts: given True"]),
        ({"expert_parallel": {"moe_layer_pattern": "("}}, ["moe_layer_pattern", "expression"]),
        ({"expert_parallel": True}, ["expert_parallel: given True", "an object"]),
        ({"fp16": {"enabled": True}}, ["fp16", "use bf16"]),
        ({"fp16": True}, ["fp16", "use bf16"]),
        ({"zero_optimization": {"stage": 2}}, ["zero_optimization.stage: given 2", "allowed: 0"]),
        ({"zero_optimization": {"stage": 4}}, ["given 4", "0, 1, 2, 3"]),
        ({"zero_optimization": {"overlap_comm": True}}, ["overlap_comm", "stages 1 to 3"]),
        ({"_comment": "of mine"}, ["_comment: there is no such key. Keys allowed"]),
        ({"//": "of mine"}, ["//: there is no such key. Keys allowed"]),
        ({"compile": {"enabled": True}}, ["compile", "engine.module.compile()"]),
        ({"commet": {}}, ['Did you mean "comet"?']),
        ({"bf16": {"enable": True}}, ['mean "enabled"?']),
        ({"activation_checkpointing": {}}, ["gradient_checkpointing_enable"]),
        ({"gradient_clipping": -1}, ["gradient_clipping: given -1", "0 or more"]),
        ({"gradient_clipping": float("nan")}, ["gradient_clipping: given nan"]),
        ({"steps_per_print": 0}, ["steps_per_print: given 0"]),
        ({"optimizer": "AdamW"}, ["optimizer: given 'AdamW'", "an object"]),
        ({"optimizer": {"type": 3}}, ["optimizer.type: given 3", "a string"]),
        ([1, 2], ["the configuration: given [1, 2]"]),
        (None, ["none was given"]),
    ],
)
def test_a_wrong_key_says_what_is_allowed(given: object, says: list[str]) -> None:
    with pytest.raises(autoep.ConfigError) as caught:
        read_config(given)
    for text in says:
        assert text in str(caught.value)


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(autoep.ConfigError, match=r"missing\.json cannot be read"):
        read_config(tmp_path / "missing.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(autoep.ConfigError, match="not valid JSON"):
        read_config(broken)
    broken.write_text('{"seed": 1, "seed": 2}')
    with pytest.raises(autoep.ConfigError, match="seed: given twice"):
        read_config(broken)


@pytest.mark.parametrize(
    ("train", "micro", "accumulation", "expected"),
    [
        (None, None, None, (4, 1, 1)),
        (8, None, None, (8, 2, 1)),
        (None, 3, None, (12, 3, 1)),
        (None, None, 5, (20, 1, 5)),
        (16, 2, None, (16, 2, 2)),
        (16, None, 2, (16, 2, 2)),
        (None, 2, 3, (24, 2, 3)),
        (24, 2, 3, (24, 2, 3)),
    ],
)
def test_batch_sizes_are_completed(train, micro, accumulation, expected) -> None:
    config = Config(train, micro, accumulation)
    assert resolve_batch_sizes(config, 4) == BatchSizes(*expected)


@pytest.mark.parametrize(
    ("train", "micro", "accumulation", "says"),
    [
        (6, None, None, "a multiple of 4"),
        (3, None, None, "a multiple of 4"),
        (12, 2, None, "a multiple of 8"),
        (12, None, 2, "a multiple of 8"),
        (12, 2, 2, "allowed: 16"),
    ],
)
def test_batch_sizes_that_do_not_fit_are_refused(train, micro, accumulation, says) -> None:
    with pytest.raises(autoep.ConfigError, match=f"train_batch_size: given {train}.*{says}"):
        resolve_batch_sizes(Config(train, micro, accumulation), 4)
