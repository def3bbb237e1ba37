"""Tiny models of each preset, their batches, and the same training in plain HF."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import transformers
from torch import nn
from torch.distributed.tensor import DTensor

from autoep.training.engine import Engine
from support.compare import assert_close

VOCABULARY = 64
Batch = dict[str, torch.Tensor]

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 24,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "initializer_range": 0.2,
    "use_cache": False,
}
_DEEPSEEK = {
    "num_key_value_heads": 4,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "head_dim": 8,
    "routed_scaling_factor": 1.5,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "mixtral": ("Mixtral", {}, "num_local_experts"),
    "qwen3_moe": ("Qwen3Moe", {"norm_topk_prob": True, "head_dim": 8}, "num_experts"),
    "deepseek_v2": (
        "DeepseekV2",
        {**_DEEPSEEK, "topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1},
        "n_routed_experts",
    ),
    "deepseek_v3": ("DeepseekV3", {**_DEEPSEEK, "n_group": 2, "topk_group": 1}, "n_routed_experts"),
}
PRESET_NAMES = tuple(_FAMILIES)


def tiny(
    preset: str,
    *,
    experts: int = 8,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> transformers.PreTrainedModel:
    """Makes a model with random weights; equal for equal arguments."""
    family, own, count = _FAMILIES[preset]
    config_class = getattr(transformers, f"{family}Config")
    config = config_class(**{**_COMMON, **own, count: experts, **changes})
    config._experts_implementation = "eager"
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.uniform_(-0.1, 0.1)
    return model.to(dtype).train()


def batch(seed: int, *, rows: int = 2, length: int = 12) -> Batch:
    """Makes a micro-batch; equal for equal seeds."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (rows, length), generator=generator)
    return {"input_ids": ids, "labels": ids}


def micro_batches(step: int, accumulation: int, size: int) -> list[list[Batch]]:
    """Makes the micro-batches of a step: [accumulation][rank]."""
    first = step * accumulation * size
    return [
        [batch(first + micro * size + rank) for rank in range(size)]
        for micro in range(accumulation)
    ]


class PlainRun:
    """The same model in plain HF: one process with the batches of all ranks."""

    def __init__(
        self,
        model: nn.Module,
        make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
        clipping: float = 0.0,
    ) -> None:
        self.model = model
        self.optimizer = None if make_optimizer is None else make_optimizer(model.parameters())
        self.clipping = clipping
        self.norm = 0.0

    def backward(self, batches: Sequence[Sequence[Batch]], **options: Any) -> list[list[Any]]:
        """Adds the gradients of the mean of all losses; returns HF's outputs."""
        count = sum(len(of_ranks) for of_ranks in batches)
        outputs = []
        for of_ranks in batches:
            outputs.append([self.model(**one, **options) for one in of_ranks])
            for output in outputs[-1]:
                (output.loss / count).backward()
        norm = nn.utils.get_total_norm([p.grad for p in self.gradients()])
        self.norm = norm.item()
        return outputs

    def gradients(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.grad is not None]

    def step(self) -> None:
        if self.clipping:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clipping)
        self.optimizer.step()
        self.optimizer.zero_grad()


def own_part(engine: Engine, name: str, whole: torch.Tensor) -> torch.Tensor:
    """Returns this rank's shard of a whole tensor, as of the parameter of that name."""
    parameter = engine.module.get_parameter(name)
    if not isinstance(parameter, DTensor):
        return whole
    parts = torch.chunk(whole, engine.groups.ep_size)
    return parts[engine.groups.ep_rank] if engine.groups.ep_rank < len(parts) else whole[:0]


def local_shard(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gradients(engine: Engine) -> dict[str, torch.Tensor | None]:
    """Returns this rank's shard of each gradient of a step, by name; collective."""
    engine.reduce_gradients()
    return {row.name: local_shard(row.master.grad) for row in engine.parameter_table}


def assert_same_gradients(engine: Engine, plain: nn.Module) -> None:
    """Compares every gradient with the plain model's."""
    mine = gradients(engine)
    theirs = {name: p.grad for name, p in plain.named_parameters()}
    assert mine.keys() == theirs.keys()
    present = [name for name in mine if mine[name] is not None]
    assert set(present) == {name for name in theirs if theirs[name] is not None}
    assert_close(
        [mine[name] for name in present],
        [own_part(engine, name, theirs[name]) for name in present],
    )


def assert_same_weights(engine: Engine, plain: nn.Module) -> None:
    """Compares every weight with the plain model's."""
    mine = {name: local_shard(p.detach()) for name, p in engine.module.named_parameters()}
    theirs = {name: own_part(engine, name, p.detach()) for name, p in plain.named_parameters()}
    assert mine.keys() == theirs.keys()
    assert_close(list(mine.values()), [theirs[name] for name in mine])


def assert_close_numbers(mine: float, theirs: float, dtype: torch.dtype) -> None:
    """Compares two numbers computed in a dtype."""
    assert_close([torch.tensor(mine, dtype=dtype)], [torch.tensor(theirs, dtype=dtype)])


def bits(engine: Engine) -> dict[str, bytes]:
    """Returns the bytes of this rank's weights."""
    return {
        name: local_shard(p.detach()).contiguous().view(torch.uint8).numpy().tobytes()
        for name, p in engine.module.named_parameters()
    }


def assert_steps_agree(engine: Engine, plain: PlainRun) -> None:
    """Compares the gradients, then the weights after a step."""
    assert_same_gradients(engine, plain.model)
    engine.step()
    plain.step()
    assert_same_weights(engine, plain.model)


def assert_same_adapters(mine: nn.Module, theirs: nn.Module) -> None:
    """Checks that PEFT would save whole adapters on every rank, under its own names."""
    from peft import get_peft_model_state_dict

    mine, theirs = get_peft_model_state_dict(mine), get_peft_model_state_dict(theirs)
    assert mine.keys() == theirs.keys()
    assert any("experts" in name for name in mine)
    assert_close(list(mine.values()), [theirs[name] for name in mine])
