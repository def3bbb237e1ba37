"""LoRA on experts through PEFT's `target_parameters`, and experts that are trained in part."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from support import models
from support.cases import Ranks, case
from support.compare import assert_close
from support.engines import ADAMW, start
from support.models import PlainRun

import autoep

TARGETS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def adapted(targets: list[str] = TARGETS, experts: int = 8, **changes) -> PeftModel:
    """A model in float64 with LoRA on its experts and its queries, whose adapters do something."""
    torch.manual_seed(5)
    options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False}
    config = LoraConfig(target_modules=["q_proj"], target_parameters=targets, **options, **changes)
    model = models.tiny("mixtral", experts=experts, dtype=torch.float64)
    return get_peft_model(model, config).train()


def train_beside_plain(ranks: Ranks, model: PeftModel, ep_size: int) -> None:
    """Three steps with clipping; every gradient and weight is that of one process with PEFT."""
    make = partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    plain = PlainRun(copy.deepcopy(model), make, clipping=0.05)
    engine = start(model, ep_size, optimizer=ADAMW, gradient_clipping=0.05)
    for step in range(3):
        batches = models.micro_batches(step, 1, ranks.size)
        (theirs,) = plain.backward(batches)
        mine = engine(**batches[0][ranks.rank])
        assert_close([mine.logits, mine.loss], [theirs[ranks.rank].logits, theirs[ranks.rank].loss])
        engine.backward(mine.loss)
        models.assert_same_gradients(engine, plain.model)
        engine.step()
        models.assert_close_numbers(engine.get_global_grad_norm(), plain.norm, torch.float64)
        plain.step()
    models.assert_same_weights(engine, plain.model)
    models.assert_same_adapters(engine.module, plain.model)


@case(targets=[TARGETS, TARGETS[:1]], experts=[8, 7], ep_size=[1, 2, 4])
def adapters_learn_as_with_peft(
    ranks: Ranks, targets: list[str], experts: int, ep_size: int
) -> None:
    train_beside_plain(ranks, adapted(targets, experts), ep_size)


def gpt_oss(target: str) -> PeftModel:
    """Weights that are transposed and interleaved, and biases."""
    config = transformers.GptOssConfig(
        vocab_size=models.VOCABULARY,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        pad_token_id=0,
        use_cache=False,
    )
    config._experts_implementation = "batched_mm"
    torch.manual_seed(5)
    model = transformers.GptOssForCausalLM(config).double()
    lora = LoraConfig(r=3, target_parameters=[target], init_lora_weights=False)
    return get_peft_model(model, lora).train()


@case(target=TARGETS, ep_size=[1, 2, 4])
def adapters_of_transposed_experts_learn_as_with_peft(
    ranks: Ranks, target: str, ep_size: int
) -> None:
    train_beside_plain(ranks, gpt_oss(target), ep_size)


@case(ep_size=[1, 2, 4])
def adapters_and_some_experts_learn_together(ranks: Ranks, ep_size: int) -> None:
    """Of one layer the down projection is trained besides, of the other nothing but adapters."""
    model = adapted()
    for name, parameter in model.named_parameters():
        if "layers.1" in name and name.endswith(("down_proj", "gate.weight")):
            parameter.requires_grad = True
    assert sum(".experts." in n and p.requires_grad for n, p in model.named_parameters()) > 8
    train_beside_plain(ranks, model, ep_size)


@case(trained=["gate_up_proj", "down_proj"], ep_size=[1, 2, 4])
def half_frozen_experts_learn_as_in_plain_hf(ranks: Ranks, trained: str, ep_size: int) -> None:
    model = models.tiny("mixtral", dtype=torch.float64)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.endswith(trained) and "layers.0" in name
    plain = PlainRun(copy.deepcopy(model))
    engine = start(model, ep_size, optimizer=ADAMW)
    batches = models.micro_batches(0, 1, ranks.size)
    plain.backward(batches)
    engine.backward(engine(**batches[0][ranks.rank]).loss)
    models.assert_same_gradients(engine, plain.model)


@case(ep_size=[1, 2, 4])
def adapters_can_be_switched_off(ranks: Ranks, ep_size: int) -> None:
    model = adapted()
    plain = copy.deepcopy(model).eval()
    engine = start(model, ep_size).eval()
    mine = models.batch(ranks.rank)
    with torch.no_grad():
        on = engine(**mine).logits
        assert_close([on], [plain(**mine).logits])
        with engine.module.disable_adapter(), plain.disable_adapter():
            off = engine(**mine).logits
            assert_close([off], [plain(**mine).logits])
        assert (on - off).norm() > 0.01 * on.norm()
        assert torch.equal(engine(**mine).logits, on)


@case(experts=[8, 7], safe=[False, True], ep_size=[1, 2, 4])
def adapters_can_be_merged(ranks: Ranks, experts: int, safe: bool, ep_size: int) -> None:
    """And unmerged, switched off while they are merged, merged for good, or taken off."""
    model = adapted(experts=experts)
    plain, base = copy.deepcopy(model).eval(), copy.deepcopy(model).unload().eval()
    engine = start(model, ep_size).eval()
    mine = models.batch(ranks.rank)
    with torch.no_grad():
        expected = plain(**mine).logits
        for _ in range(2):
            engine.module.merge_adapter(safe_merge=safe)
            plain.merge_adapter()
            assert_close([engine(**mine).logits], [expected])
            models.assert_same_weights(engine, plain)
            plain.unmerge_adapter()
            engine.module.unmerge_adapter()
            assert_close([engine(**mine).logits], [expected])
        engine.module.merge_adapter()
        with engine.module.disable_adapter():
            assert_close([engine(**mine).logits], [base(**mine).logits])
        assert_close([engine(**mine).logits], [expected])
        broken = copy.deepcopy(engine.module)
        broken.unmerge_adapter()
        factors = [p for n, p in broken.named_parameters() if "experts" in n and "lora_B" in n]
        factors[0].view(-1)[0] = torch.nan
        with pytest.raises(ValueError, match="NaN"):
            broken.merge_adapter(safe_merge=True)
        taken_off = copy.deepcopy(engine.module).unload()
        assert_close([taken_off(**mine).logits], [base(**mine).logits])
        merged = engine.module.merge_and_unload(safe_merge=safe)
        assert_close([merged(**mine).logits], [expected])
        assert not any("lora" in name for name, _ in merged.named_parameters())


@case(ep_size=[1, 2, 4])
def a_checkpoint_has_the_adapters(ranks: Ranks, ep_size: int) -> None:
    engine = start(adapted(), ep_size, optimizer=ADAMW)
    engine.backward(engine(**models.batch(ranks.rank)).loss)
    engine.step()
    engine.save_checkpoint(ranks.folder)
    saved = models.bits(engine)
    engine.backward(engine(**models.batch(ranks.rank)).loss)
    engine.step()
    assert models.bits(engine) != saved
    engine.load_checkpoint(ranks.folder)
    assert models.bits(engine) == saved


@case(sizes=(1, 2))
def other_adapters_are_refused(ranks: Ranks) -> None:
    merged = adapted()
    merged.merge_adapter()
    with pytest.raises(autoep.ModelError, match=r"layers\.0\.mlp: an adapter is merged"):
        start(merged)
    with pytest.raises(autoep.ModelError, match="PEFT's ModulesToSaveWrapper wraps"):
        start(adapted([], modules_to_save=["experts"]))
    with pytest.raises(autoep.ModelError, match=r"LoRA targets the parameter 'gate_up_proj_bias'"):
        start(gpt_oss("mlp.experts.gate_up_proj_bias"))
    plain = adapted().merge_and_unload()
    start(plain)
