"""Whole models on a GPU: the engine as their experts, and `autoep.initialize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import models
from support.compare import assert_as_good, assert_close

import autoep
from autoep.layers.replace import ExpertLoad
from autoep.layers.token_masks import TokenMasks

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

PRESETS = models.PRESET_NAMES


@pytest.fixture(autouse=True)
def exact_products() -> Any:
    """Plain products of the models in float32 all the way."""
    torch.backends.cuda.matmul.allow_tf32 = False


def batch(seed: int) -> models.Batch:
    return {name: tensor.cuda() for name, tensor in models.batch(seed).items()}


def on_cpu(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().cpu() for tensor in tensors]


def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_learns_as_with_transformers_own(preset: str) -> None:
    exact = models.tiny(preset, dtype=torch.float64)
    plain, ours = (models.tiny(preset).cuda() for _ in range(2))
    ours.set_experts_implementation("autoep")
    for seed in range(2):
        for model in (plain, ours):
            model(**batch(seed)).loss.backward()
        exact(**models.batch(seed)).loss.backward()
    assert_as_good(*(gradients(model) for model in (ours, plain, exact)))


def test_a_block_compiles_without_a_break() -> None:
    model = models.tiny("mixtral").cuda()
    model.set_experts_implementation("autoep")
    block = model.model.layers[0].mlp
    x = torch.randn(2, 9, 32, device="cuda", requires_grad=True)
    compiled = torch.compile(block, fullgraph=True)
    found = []
    for call in (compiled, block):
        y = call(x)
        y = y[0] if isinstance(y, tuple) else y
        found.append(on_cpu([y, *torch.autograd.grad(y.square().sum(), (x, *block.parameters()))]))
    assert_close(*found)


def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_engine_trains_as_plain_training_does(preset: str) -> None:
    runs = [
        models.PlainRun(model, make_optimizer, clipping=0.5)
        for model in (models.tiny(preset).cuda(), models.tiny(preset, dtype=torch.float64))
    ]
    config = {
        "optimizer": {"type": "SGD", "params": {"lr": 0.1, "momentum": 0.9}},
        "gradient_clipping": 0.5,
        "gradient_accumulation_steps": 2,
        "train_micro_batch_size_per_gpu": 2,
    }
    engine, *_ = autoep.initialize(model=models.tiny(preset).cuda(), config=config)
    assert engine.device == batch(0)["labels"].device
    for step in range(3):
        for plain, make_batch in zip(runs, (batch, models.batch), strict=True):
            plain.backward([[make_batch(2 * step + micro)] for micro in range(2)])
            plain.step()
        for micro in range(2):
            engine.backward(engine(**batch(2 * step + micro)).loss)
            engine.step()
        norms = (engine.get_global_grad_norm(), *(plain.norm for plain in runs))
        assert_as_good(*([torch.tensor([norm]).double()] for norm in norms))
    assert engine.expert_load().sum() > 0
    assert_as_good(
        *([p.detach() for p in m.parameters()] for m in (engine.module, *(r.model for r in runs)))
    )


def run(engine: Any, steps: range) -> list[float]:
    losses = []
    for step in steps:
        loss = engine(**batch(step)).loss
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("params", [{}, {"fused": True}, {"capturable": True}], ids=str)
def test_a_bf16_run_goes_on_from_a_checkpoint(tmp_path: Path, params: dict[str, Any]) -> None:
    config = {
        "bf16": {"enabled": True},
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, **params}},
    }

    def start() -> Any:
        model = models.tiny("mixtral", dtype=torch.bfloat16, attention_dropout=0.2).cuda()
        return autoep.initialize(model=model, config=config)[0]

    def state(engine: Any) -> list[torch.Tensor]:
        """All that a step starts from."""
        weights = [row.master for row in engine.parameter_table]
        kept = [value for p in weights for value in engine.optimizer.state[p].values()]
        random = [torch.get_rng_state(), torch.cuda.get_rng_state()]
        return [t.detach().clone() for t in (*engine.module.parameters(), *weights, *kept, *random)]

    engine = start()
    run(engine, range(2))
    engine.save_checkpoint(tmp_path)
    expected = state(engine)
    losses = run(engine, range(2, 4))
    again = start()
    again.load_checkpoint(tmp_path)
    for found, wanted in zip(state(again), expected, strict=True):
        assert found.device == wanted.device
        assert torch.equal(found, wanted)
    # With other dropouts, losses would be further apart than sums in another order put them.
    assert run(again, range(2, 4)) == pytest.approx(losses, rel=1e-3)


@pytest.mark.parametrize("choice", [{}, {"fused_router": False}])
def test_nan_is_a_loss_of_nan_and_no_fault(choice: dict) -> None:
    model = models.tiny("mixtral").cuda()
    engine, *_ = autoep.initialize(model=model, config={"expert_parallel": choice})
    ids = models.batch(0)["input_ids"].cuda()
    embeddings = model.get_input_embeddings()(ids).detach()
    spoiled = embeddings.clone()
    spoiled[1, 4, 3] = torch.nan
    assert engine(inputs_embeds=spoiled, labels=ids).loss.isnan()
    torch.cuda.synchronize()
    loss = engine(inputs_embeds=embeddings, labels=ids).loss
    engine.backward(loss)
    assert loss.isfinite()


def test_the_load_is_counted_without_a_wait() -> None:
    layers = autoep.initialize(model=models.tiny("mixtral").cuda(), config={})[0]._load
    assert isinstance(layers, ExpertLoad)
    idx = torch.tensor([[0, 1], [1, 7], [1, 8], [-1, 2]], device="cuda")
    layers.add(0, idx)
    with layers.counted(TokenMasks()):
        torch.cuda.set_sync_debug_mode("error")
        try:
            layers.add(0, idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    layers.end_step()
    assert layers.last[0].tolist() == [1, 3, 1, 0, 0, 0, 0, 1]
    assert not layers.last[1].any()


def test_a_model_on_two_devices_is_refused() -> None:
    model = models.tiny("mixtral")
    model.lm_head.cuda()
    with pytest.raises(autoep.ModelError, match="on the CPU or on one GPU"):
        autoep.initialize(model=model, config={})
