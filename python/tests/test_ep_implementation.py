"""`DistributedConfig(ep_implementation="autoep")`: transformers' own expert parallelism."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from run_ep_implementation import LAYOUTS, MODELS
from support.launches import launch, torchrun

SCRIPT = Path(__file__).with_name("run_ep_implementation.py")

# float32: FSDP2 of torch 2.13 divides float64 gradients twice where a mesh has one rank.
_SIZES: dict[str, Any] = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_local_experts=8,
    num_experts_per_tok=2,
    initializer_range=0.2,
    use_cache=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    dtype="float32",
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of saved models."""
    folder = tmp_path_factory.mktemp("models")
    for name, activation in MODELS.items():
        torch.manual_seed(0)
        config = transformers.MixtralConfig(**_SIZES, hidden_act=activation)
        transformers.MixtralForCausalLM(config).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("ranks", LAYOUTS)
def test_logits_and_gradients_are_those_of_one_process(saved: Path, ranks: int) -> None:
    result = launch(torchrun(ranks), SCRIPT, str(saved), timeout=240)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    assert result.stdout.count("passed") == ranks * len(MODELS) * len(LAYOUTS[ranks]), output
