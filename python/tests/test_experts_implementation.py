"""`experts_implementation="autoep"`: transformers' models with the engine's experts."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from support import reference
from support.compare import assert_close
from support.experts_classes import FFN, KINDS, E, H, ModuleConfig, T, case, make_class, results
from support.ranks import run_ranks
from torch import nn

import autoep
from autoep import functional
from autoep.integrations.remembered_spec import spec_of
from autoep.layers.experts import run_experts


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_class_is_computed_as_transformers_does(kind: str, dtype: torch.dtype) -> None:
    experts, (x, idx, weights) = case(kind, dtype)
    expected = results(experts, experts(x, idx, weights), x, weights)
    experts.config = ModuleConfig("autoep")
    found = results(experts, experts(x, idx, weights), x, weights)
    assert_close(found, expected)
    spec = spec_of(experts)
    assert (spec.activation if spec.fused() else None) == KINDS[kind][1]


@pytest.mark.parametrize("kind", ["clamped", "softcapped", "norm after"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_experts_over_ranks_give_what_one_rank_gives(kind: str, ranks: int) -> None:
    """4 ranks share 5 experts as 2, 2, 1 and none."""
    experts, (x, idx, weights) = case(kind, torch.float64)
    expected = results(experts, experts(x, idx, weights), x, weights)
    direction = torch.randn(T, H, generator=torch.Generator().manual_seed(5)).double()
    splits = [T - 4 * (ranks - 1), *[4] * (ranks - 1)]

    def on_rank(comm: autoep.Communicator) -> list[torch.Tensor]:
        mine = copy.deepcopy(experts)
        first, count = functional.expert_range(E, comm.size, comm.rank)
        for name, whole in list(mine.named_parameters(recurse=False)):
            setattr(mine, name, nn.Parameter(whole.detach()[first : first + count].clone()))
        own_x, own_idx, own_weights, own_direction = (
            part.detach().split(splits)[comm.rank].clone() for part in (x, idx, weights, direction)
        )
        own_x.requires_grad_()
        own_weights.requires_grad_()
        y = run_experts(
            mine, own_x, own_idx, own_weights, num_experts=E, spec=spec_of(mine), comm=comm
        )
        (y * own_direction).sum().backward()
        return [y, own_x.grad, own_weights.grad, *(p.grad for p in mine.parameters())]

    parts = list(zip(*run_ranks(ranks, on_rank), strict=True))
    joined = [torch.cat(part) for part in parts]
    for index, (name, _) in enumerate(experts.named_parameters()):
        if "norm" in name:  # every rank has it whole, and a part of its gradient
            joined[3 + index] = torch.stack(parts[3 + index]).sum(0)
    assert_close(joined, expected)


def test_choices_of_experts_elsewhere_count_for_nothing() -> None:
    """transformers' expert parallelism marks them with the number of experts that are here."""
    experts, (x, idx, weights) = case("transposed, biases", torch.float64)
    experts._is_expert_parallel = True
    idx = idx.clone()
    idx[::3, 1] = E
    idx[5] = E
    expected = results(experts, experts(x, idx, weights), x, weights)
    experts.config = ModuleConfig("autoep")
    functional.reset_statistics()
    found = results(experts, experts(x, idx, weights), x, weights)
    assert_close(found, expected)
    assert not found[0][5].any()
    assert not found[2][5].any()
    assert functional.statistics().rows_received == int((idx < E).sum()), "nothing else is computed"


def test_a_choice_that_is_no_expert_is_refused() -> None:
    experts, (x, idx, weights) = case("silu", torch.float32)
    experts.config = ModuleConfig("autoep")
    experts._is_expert_parallel = False
    for wrong in (E, -2):
        idx[3, 1] = wrong
        with pytest.raises(autoep.InvalidArgumentError, match="topk_idx"):
            experts(x, idx, weights)


@pytest.mark.parametrize("activation", ["silu", None], ids=["fused", "composed"])
def test_identity_experts_are_not_computed(activation: str | None, dtype: torch.dtype) -> None:
    """They add their weight times the token; a choice of -1 beside them adds nothing."""
    experts, (x, idx, weights) = case("silu", dtype)
    spec = dataclasses.replace(spec_of(experts), identity_experts=3, activation=activation)
    idx = idx.clone()
    idx[::3, 0] = E
    idx[1::4, 1] = E + 2
    idx[6] = -1
    is_identity = idx >= E
    weights = weights.detach().requires_grad_()
    others = idx.masked_fill(is_identity, -1)
    expected = reference.experts(x, others, weights, experts.gate_up_proj, experts.down_proj)
    kept = weights.masked_fill(~is_identity, 0).sum(1, keepdim=True)
    expected = results(experts, expected + kept * x, x, weights)
    functional.reset_statistics()
    y = run_experts(experts, x, idx, weights, num_experts=E, spec=spec)
    assert_close(results(experts, y, x, weights), expected)
    if activation is not None:
        assert functional.statistics().rows_received == int((others >= 0).sum())


@pytest.mark.parametrize("ranks", [1, 3])
def test_composed_experts_weigh_their_input_where_the_spec_says_so(ranks: int) -> None:
    experts, (x, idx, weights) = case("silu", torch.float64)
    spec = dataclasses.replace(spec_of(experts), score_apply="before")
    fused = run_experts(experts, x, idx, weights, num_experts=E, spec=spec)
    composed = dataclasses.replace(spec, activation=None)

    def on_rank(comm: autoep.Communicator) -> torch.Tensor:
        mine = copy.deepcopy(experts)
        first, count = functional.expert_range(E, comm.size, comm.rank)
        for name, whole in list(mine.named_parameters(recurse=False)):
            setattr(mine, name, nn.Parameter(whole.detach()[first : first + count].clone()))
        part = slice(comm.rank, None, comm.size)
        with torch.no_grad():
            return run_experts(
                mine, x[part], idx[part], weights[part], num_experts=E, comm=comm, spec=composed
            )

    for rank, y in enumerate(run_ranks(ranks, on_rank)):
        assert_close([y], [fused.detach()[rank::ranks]])


def test_under_autocast_the_weights_decide_the_type() -> None:
    experts, (x, idx, weights) = case("silu", torch.float32)
    expected = experts(x, idx, weights)
    experts.config = ModuleConfig("autoep")
    y = experts(x.bfloat16(), idx, weights)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, experts(x.bfloat16().float(), idx, weights).bfloat16())
    assert (y - expected).norm() < 0.02 * expected.norm()


_SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=24,
    moe_intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    num_local_experts=6,
    num_experts=6,
    num_experts_per_tok=2,
    initializer_range=0.2,
    use_cache=False,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)


@pytest.mark.parametrize(
    ("family", "own"),
    [
        ("Mixtral", {}),
        ("Qwen3Moe", {}),
        ("GptOss", {"layer_types": ["full_attention"] * 2}),
        ("HYV4", {"num_experts": 6, "swiglu_limit": 0.5}),
    ],
)
def test_models_learn_as_with_transformers_own(family: str, own: dict[str, Any]) -> None:
    config = getattr(transformers, f"{family}Config")(**{**_SIZES, **own})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).double()
    ids = torch.randint(64, (2, 12))
    outputs = []
    for implementation in ("batched_mm", "autoep"):
        model.set_experts_implementation(implementation)
        functional.reset_statistics()
        output = model(input_ids=ids, labels=ids)
        model.zero_grad()
        output.loss.backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        outputs.append([output.logits, *grads])
    assert_close(*reversed(outputs))
    assert model.get_experts_implementation()[""] == "autoep"


def test_adapters_of_peft_learn_as_with_transformers_own() -> None:
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**_SIZES)).double()
    targets = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    config = LoraConfig(r=3, target_parameters=targets, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    ids = torch.randint(64, (2, 12))
    outputs = []
    for implementation in ("batched_mm", "autoep"):
        model.set_experts_implementation(implementation)
        adapted.zero_grad()
        output = adapted(input_ids=ids, labels=ids)
        output.loss.backward()
        named = adapted.named_parameters()
        grads = {name: p.grad.clone() for name, p in named if p.grad is not None}
        assert all("lora" in name for name in grads)
        outputs.append([output.logits, *(grads[name] for name in sorted(grads))])
    assert_close(*reversed(outputs))


def test_from_pretrained_takes_the_name(tmp_path: Any) -> None:
    config = transformers.MixtralConfig(**_SIZES)
    model = transformers.MixtralForCausalLM(config)
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, experts_implementation="autoep"
    )
    ids = torch.arange(12).view(1, 12)
    functional.reset_statistics()
    with torch.no_grad():
        assert_close([loaded(ids).logits], [model(ids).logits])
    assert functional.statistics().forward_calls == config.num_hidden_layers


def test_generate_goes_through_the_engine() -> None:
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**_SIZES)).eval()
    prompt = torch.arange(5).view(1, 5)
    expected = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
    model.set_experts_implementation("autoep")
    found = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(found, expected)


def test_what_is_not_of_the_convention_is_refused() -> None:
    with pytest.raises(autoep.ModelError, match=r"Linear has no has_gate.*is unknown"):
        spec_of(nn.Linear(2, 2))
    experts, (x, idx, weights) = case("silu", torch.float32)
    experts.down_proj = nn.Parameter(torch.randn(E, H, FFN + 1))
    with pytest.raises(autoep.ModelError, match=r"`gate_up_proj` has.*expected .5, 26"):
        spec_of(experts)
    flat = make_class()(ModuleConfig("autoep"))
    flat.down_proj = nn.Parameter(torch.randn(E * H, FFN))
    with pytest.raises(autoep.ModelError, match="with three dimensions"):
        flat(x, idx, weights)


IMPORT_ORDERS = {
    "autoep first": "import autoep; assert 'torch' not in sys.modules; import transformers",
    "transformers first": "import transformers; import autoep",
    "registries first": (
        "import transformers.integrations.moe, transformers.distributed.expert_parallel;"
        " import autoep"
    ),
}


@pytest.fixture(scope="module")
def fresh_interpreters() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """An interpreter for each order of imports; they import at the same time."""
    pipes: dict[str, Any] = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    started = {
        order: subprocess.Popen([sys.executable, "-c", script_of(imports)], **pipes)
        for order, imports in IMPORT_ORDERS.items()
    }
    yield started
    for process in started.values():  # those of tests that were not selected
        if process.returncode is None:
            process.communicate()


def script_of(imports: str) -> str:
    return f"""
import sys
{imports}
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.distributed.expert_parallel import EPImplementationInterface
assert "autoep" in ALL_EXPERTS_FUNCTIONS and "autoep" in EPImplementationInterface()
import inspect
assert "class ExpertsInterface" in inspect.getsource(sys.modules["transformers.integrations.moe"])
"""


@pytest.mark.parametrize("order", IMPORT_ORDERS)
def test_the_name_is_known_in_either_order_of_imports(
    fresh_interpreters: dict[str, subprocess.Popen[str]], order: str
) -> None:
    output, _ = fresh_interpreters[order].communicate()
    assert fresh_interpreters[order].returncode == 0, output
