"""What `autoep.inspect` and `python -m autoep inspect` say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MixtralConfig

import autoep
from autoep.cli.main import main
from autoep.detection import find
from autoep.inspection.text import short_names

_SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=24,
    moe_intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts_per_tok=2,
    head_dim=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


def small(family: str, **changes: Any) -> nn.Module:
    config = AutoConfig.for_model(family, **{**_SMALL, **changes})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def test_a_model_of_671_billion_parameters_needs_no_memory_for_them() -> None:
    """The table of DeepSeek-V3, in the sizes of its paper."""
    found = autoep.inspect(AutoConfig.for_model("deepseek_v3", dtype="bfloat16"))
    (blocks,) = found.blocks
    assert blocks.names == tuple(f"model.layers.{layer}.mlp" for layer in range(3, 61))
    assert (blocks.family, blocks.num_experts, blocks.top_k) == ("deepseek_v3", 256, 8)
    assert (blocks.hidden_size, blocks.ffn_size) == (7168, 2048)
    assert blocks.activation == "silu"
    assert blocks.interfaces == ("initialize", "experts_implementation", "ep_implementation")
    assert blocks.parameters == 256 * 3 * 7168 * 2048
    assert found.dtype == "bfloat16"
    assert found.parameters == 671_026_404_352
    assert found.expert_bytes(64) == 58 * 4 * 3 * 7168 * 2048 * 2
    assert found.dense_bytes == 2 * (found.parameters - 58 * blocks.parameters)
    assert found.unsupported == ()
    text = str(found)
    assert "model.layers.3-60.mlp: 58 MoE blocks" in text
    assert "sigmoid (+ bias for the choice), 4 of 8 groups by the two best, top-8, / sum" in text
    assert "shared_experts of 44,040,192 parameters" in text
    assert "interfaces      initialize, experts_implementation, ep_implementation" in text
    assert "weights per rank" in text
    assert "ep_size 64" in text


def test_experts_that_ranks_cannot_share_evenly_count_for_the_fullest() -> None:
    found = autoep.inspect(small("mixtral", num_local_experts=7))
    one = 3 * 32 * 24 * 4
    assert [found.expert_bytes(size) for size in found.ep_sizes()] == [
        3 * count * one for count in (7, 4, 2)
    ]


def test_a_model_is_as_it_was() -> None:
    model = small("deepseek_v3", n_routed_experts=8, n_group=2, topk_group=1)
    calls: list[Any] = []
    for module in model.modules():
        module.register_forward_hook(lambda *given: calls.append(given))
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    autoep.inspect(model)
    assert not calls
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_model_that_trains_already_is_described_the_same() -> None:
    model = small("mixtral")
    before = str(autoep.inspect(model))
    engine, *_ = autoep.initialize(model=model, config={})
    assert str(autoep.inspect(engine.module)) == before


class Strange(nn.Module):
    """A model whose second block has experts of a kind of its own."""

    def __init__(self) -> None:
        super().__init__()
        known = small("mixtral", num_hidden_layers=1)
        self.known = known.model.layers[0].mlp
        self.other = nn.Module()
        self.other.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))


def test_what_is_not_spread_is_said_with_its_reason() -> None:
    found = autoep.inspect(Strange())
    assert [blocks.names for blocks in found.blocks] == [("known",)]
    (other,) = found.unsupported
    assert other.names == ("other.experts",)
    assert "ModuleList: how it computes its experts is not known" in str(found)
    dense = autoep.inspect(LlamaConfig(num_hidden_layers=1))
    assert dense.blocks == ()
    assert "LlamaForCausalLM has no MoE layer" in str(dense)


def test_the_command_reads_a_folder_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = MixtralConfig(**_SMALL)
    config.save_pretrained(tmp_path)
    expected = str(autoep.inspect(config)) + "\n"
    for path in (tmp_path, tmp_path / "config.json"):
        assert main(["inspect", str(path)]) == 0
        assert capsys.readouterr().out == expected
    command = [sys.executable, "-m", "autoep", "inspect", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, expected), result.stderr


def test_the_command_says_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "config.json"
    for content in ({"model_type": "no_such_model"}, {"model_type": "mixtral", "hidden_size": "w"}):
        broken.write_text(json.dumps(content))
        assert main(["inspect", str(broken)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith(f"autoep: inspect: {broken} cannot be read as a config")
    with pytest.raises(SystemExit, match="2"):
        main(["inspect"])


@pytest.mark.parametrize("name", ["nope", "./nope", "a/b/c", "/no/such/config.json", "nope.json"])
def test_what_is_neither_a_file_nor_a_name_is_not_asked_for(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: pytest.fail())
    assert main(["inspect", name]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"autoep: inspect: {name}: there is no such file or folder, nor is it")


def test_a_name_that_the_hub_does_not_have_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the Hub\nCheck your connection")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    with pytest.raises(
        autoep.ConfigError, match=r"no/such: there is no such file.*connect to the"
    ) as e:
        autoep.inspect("no/such")
    assert "\n" not in str(e.value)


def test_the_status_tells_whether_a_model_is_supported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model_type, status in (("mixtral", 0), ("jetmoe", 0), ("llama", 1), ("doge", 1)):
        config = {"model_type": model_type, "num_hidden_layers": 1}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert main(["inspect", str(tmp_path)]) == status, model_type
    assert "not supported" in capsys.readouterr().out


def test_the_command_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"autoep {autoep.__version__}\n"


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(autoep.ConfigError, match="given int; allowed: a model"):
        autoep.inspect(3)
    with pytest.raises(autoep.ConfigError, match="cannot build the model of this MixtralConfig"):
        autoep.inspect(MixtralConfig(hidden_act="no such"))


def test_names_are_told_in_short() -> None:
    names = [f"model.layers.{layer}.mlp" for layer in (0, 1, 2, 5, 7, 8)]
    assert short_names(names) == "model.layers.0-2,5,7-8.mlp"
    assert short_names(["block", "model.layers.3"]) == "block, model.layers.3"


def test_blocks_of_the_same_make_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Llama 4 has 48 of them, and to try one takes seconds."""
    tried = []
    own = find.describe_unmarked
    monkeypatch.setattr(
        find, "describe_unmarked", lambda name, *rest: tried.append(name) or own(name, *rest)
    )
    model = small("llama4_text", interleave_moe_layer_step=1, num_local_experts=4)
    (alike,) = autoep.inspect(model).blocks
    assert alike.names == tuple(f"model.layers.{i}.feed_forward" for i in range(3))
    assert [name for name in tried if name.endswith("feed_forward")] == [alike.names[0]]
    model.model.layers[1].feed_forward.experts.act_fn = nn.GELU()
    found = {blocks.activation: blocks.names for blocks in autoep.inspect(model).blocks}
    assert found == {"silu": alike.names[::2], "gelu": alike.names[1:2]}


def test_a_config_with_code_of_its_own_is_refused_without_a_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["inspect", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert "trust_remote_code" in said.err
    assert "[y/N]" not in said.out + said.err


def test_a_module_without_parameters_has_no_blocks() -> None:
    found = autoep.inspect(nn.Module())
    assert (found.blocks, found.parameters, found.dtype) == ((), 0, "none")
    assert "no MoE layer" in str(found)
