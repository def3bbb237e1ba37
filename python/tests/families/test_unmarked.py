"""Families whose experts transformers does not mark: what they cannot do is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import tiny

import autoep


def start(model: torch.nn.Module) -> autoep.training.engine.Engine:
    return autoep.initialize(model=model.float(), config={})[0]


@pytest.mark.parametrize("family", ["dbrx", "longcat_flash"])
def test_stacked_experts_are_not_written_for_transformers(family: str, tmp_path: Path) -> None:
    """It would read DBRX's without its experts, and only warn."""
    engine = start(tiny.tiny_model(family))
    with pytest.raises(autoep.UnsupportedError, match=r"experts of this .* were stacked"):
        engine.module.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_experts_that_stay_as_they_are_can_be_written(tmp_path: Path) -> None:
    engine = start(tiny.tiny_model("llama4_text"))
    engine.eval()
    engine.module.save_pretrained(tmp_path)
    read = type(engine.module).from_pretrained(tmp_path, dtype=torch.float32).eval()
    batch = tiny.inputs("llama4_text", 0)
    torch.testing.assert_close(read(**batch).logits, engine(**batch).logits)


@pytest.mark.parametrize(
    ("family", "target"),
    [
        ("llama4_text", "experts.down_proj"),
        ("llama4_text", "0.feed_forward.experts.down_proj"),
        ("longcat_flash", "0.mlp.experts.gate_up_proj"),
    ],
)
def test_lora_on_them_is_refused(family: str, target: str) -> None:
    """Also on those of one layer: they would stay whole on each rank without a word."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["o_proj"], target_parameters=[target])
    with pytest.raises(autoep.ModelError, match="ParamWrapper wraps these experts, which do not"):
        start(peft.get_peft_model(tiny.tiny_model(family), config))
