"""The configuration of a training run: a path, a dict, or a DeepSpeed JSON.

Every key is honoured, or refused with its reason; an unknown key is an error. "auto" takes the
default that stands here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from autoep.config.schema import (
    AMOUNT,
    COUNT,
    FLAG,
    OBJECT,
    PATTERN,
    POSITIVE,
    SECONDS,
    TEXT,
    Refusal,
    key,
    one_of,
    optional,
    read_section,
    section,
    wrong_value,
)
from autoep.errors import ConfigError

# Keys of `expert_parallel` that describe the layers which `moe_layer_pattern` finds.
_CUSTOM_KEYS = (
    "router_pattern",
    "expert_pattern",
    "expert_w1",
    "expert_w2",
    "expert_w3",
    "num_experts_attr",
    "top_k_attr",
    "top_k",
    "has_shared_experts",
    "shared_experts_pattern",
    "score_func",
    "score_apply",
    "route_norm",
    "route_scale",
    "routed_scaling_factor",
    "num_expert_groups",
    "num_limited_groups",
)
_ZERO_ONLY = "it acts with ZeRO stages 1 to 3 only, which are not supported yet"
_MONITOR = "there is no monitor to configure"


@dataclass(frozen=True)
class ExpertParallelConfig:
    """`expert_parallel`: how the experts are spread.

    Attributes:
        enabled: False trains the model as it is, with data parallelism only.
        autoep_size: Ranks that share one set of experts; divides the number of ranks. Default:
            the largest divisor of the number of ranks that is at most the number of experts.
        preset_model: The family to look for in the model, by its `model_type`. Default: any.
        router: "model" keeps the model's choice of experts; "sinkhorn" balances it in training,
            with weights of its own.
        fused_router: Whether the engine routes where it has the maths of a model's router.
        load_balance_coeff: By how much the bias that a router adds for the choice of experts moves
            in a step, against the load of all ranks. Default: it does not.
        num_threads: Threads of the engine on this rank. Default: `AUTOEP_NUM_THREADS`, else the
            cores that this rank may use, divided among the ranks that share them.
        timeout: Seconds after which a missing rank is an error.
        moe_layer_pattern: For a model of one's own: what the names of its MoE layers end with, a
            regular expression. All that follow describe these layers.
        router_pattern: The layer's attribute that is the router. Default: gate, or router.
        expert_pattern: The attribute that is the experts: a ModuleList, or a module with stacked
            weights. Default: experts.
        expert_w1: The gate of an expert, a linear map or a stacked weight; with `expert_w3` left
            out, gate and up in one, or the up of experts without a gate. Default: found by trying.
        expert_w2: What gives the output.
        expert_w3: What is multiplied with the gate.
        num_experts_attr: The attribute of the model's configuration that says E, to be checked.
        top_k_attr: The one that says K. Default: top_k of the layer or its router.
        top_k: K itself.
        has_shared_experts: False: the layer has none for all tokens.
        shared_experts_pattern: The attribute that is those, a regular expression.
        score_func: "softmax" or "sigmoid". Default, as of all that follow: found by trying.
        score_apply: Whether a weight multiplies an expert's output or its input.
        route_norm: Whether the weights of a token are divided by their sum.
        route_scale: Multiplies the weights.
        routed_scaling_factor: Another name of it.
        num_expert_groups: Groups of experts, of which a token may use a few.
        num_limited_groups: How many.
    """

    enabled: bool = key(True, FLAG)
    autoep_size: int | None = key(None, POSITIVE)
    preset_model: str | None = key(None, optional(TEXT))
    router: str = key("model", one_of("model", "sinkhorn"))
    fused_router: bool = key(True, FLAG)
    load_balance_coeff: float | None = key(None, optional(AMOUNT))
    num_threads: int | None = key(None, POSITIVE)
    timeout: float = key(600.0, SECONDS)
    moe_layer_pattern: str | None = key(None, optional(PATTERN))
    router_pattern: str | None = key(None, optional(TEXT))
    expert_pattern: str | None = key(None, optional(TEXT))
    expert_w1: str | None = key(None, optional(TEXT))
    expert_w2: str | None = key(None, optional(TEXT))
    expert_w3: str | None = key(None, optional(TEXT))
    num_experts_attr: str | None = key(None, optional(TEXT))
    top_k_attr: str | None = key(None, optional(TEXT))
    top_k: int | None = key(None, optional(POSITIVE))
    has_shared_experts: bool | None = key(None, optional(FLAG))
    shared_experts_pattern: str | None = key(None, optional(PATTERN))
    score_func: str | None = key(None, optional(one_of("softmax", "sigmoid")))
    score_apply: str | None = key(None, optional(one_of("after", "before")))
    route_norm: bool | None = key(None, optional(FLAG))
    route_scale: float | None = key(None, optional(AMOUNT))
    routed_scaling_factor: float | None = key(None, optional(AMOUNT))
    num_expert_groups: int | None = key(None, optional(POSITIVE))
    num_limited_groups: int | None = key(None, optional(POSITIVE))

    refused: ClassVar[dict[str, Refusal]] = {
        "deterministic": Refusal("every result is deterministic", (True, "auto")),
        "use_grouped_mm": Refusal("the engine always groups its products", (True, "auto")),
        "grouped_mm_backend": Refusal("the engine has one of its own", ("auto",)),
    }


@dataclass(frozen=True)
class OptimizerConfig:
    """`optimizer`: a class of torch.optim by name, and its arguments."""

    type: str | None = key(None, TEXT)
    params: dict[str, Any] = key(dict, OBJECT)

    refused: ClassVar[dict[str, Refusal]] = {
        "legacy_fusion": Refusal("it is an option of DeepSpeed's own kernels", (False,)),
    }


@dataclass(frozen=True)
class SchedulerConfig:
    """`scheduler`: DeepSpeed's WarmupLR, WarmupDecayLR or WarmupCosineLR, or one of torch."""

    type: str | None = key(None, TEXT)
    params: dict[str, Any] = key(dict, OBJECT)


@dataclass(frozen=True)
class BF16Config:
    """`bf16`: computes in bfloat16; weights, optimizer states and gradients are kept in float32."""

    enabled: bool = key(False, FLAG)

    refused: ClassVar[dict[str, Refusal]] = {
        "immediate_grad_update": Refusal("gradients are reduced when a step ends", (True, "auto")),
        "check_grad_overflow": Refusal("bfloat16 has the range of float32", (False, "auto")),
    }


@dataclass(frozen=True)
class ZeroConfig:
    """`zero_optimization`: stage 0 only."""

    stage: int = key(0, one_of(0, 1, 2, 3))

    refused: ClassVar[dict[str, Refusal]] = dict.fromkeys(
        (
            "allgather_partitions",
            "allgather_bucket_size",
            "overlap_comm",
            "reduce_scatter",
            "reduce_bucket_size",
            "contiguous_gradients",
            "offload_param",
            "offload_optimizer",
            "sub_group_size",
            "round_robin_gradients",
            "stage3_max_live_parameters",
            "stage3_max_reuse_distance",
            "stage3_prefetch_bucket_size",
            "stage3_param_persistence_threshold",
            "stage3_gather_16bit_weights_on_model_save",
            "zero_hpz_partition_size",
            "zero_quantized_weights",
            "zero_quantized_gradients",
        ),
        Refusal(_ZERO_ONLY, ("auto",)),
    )


@dataclass(frozen=True)
class DataTypesConfig:
    """`data_types`: gradients are accumulated in float32."""

    grad_accum_dtype: str | None = key(None, optional(one_of("fp32")))


@dataclass(frozen=True)
class Config:
    """A training run, as DeepSpeed's JSON describes one.

    Attributes:
        train_batch_size: Samples an optimizer step, over all ranks.
        train_micro_batch_size_per_gpu: Samples a rank computes at a time; 1 if nothing says.
        gradient_accumulation_steps: Micro-batches an optimizer step; 1 if nothing says.
        gradient_clipping: The largest global gradient norm; 0 does not clip.
        steps_per_print: Prints the state of the run on rank 0 every so many steps.
        seed: Of the order of the training data.
        dataloader_drop_last: Whether to leave out a last, smaller micro-batch.
    """

    train_batch_size: int | None = key(None, POSITIVE)
    train_micro_batch_size_per_gpu: int | None = key(None, POSITIVE)
    gradient_accumulation_steps: int | None = key(None, POSITIVE)
    gradient_clipping: float = key(0.0, AMOUNT)
    steps_per_print: int | None = key(None, optional(POSITIVE))
    seed: int = key(0, COUNT)
    dataloader_drop_last: bool = key(False, FLAG)
    optimizer: OptimizerConfig = section(OptimizerConfig)
    scheduler: SchedulerConfig = section(SchedulerConfig)
    bf16: BF16Config = section(BF16Config)
    zero_optimization: ZeroConfig = section(ZeroConfig)
    expert_parallel: ExpertParallelConfig = section(ExpertParallelConfig)
    data_types: DataTypesConfig = section(DataTypesConfig)

    refused: ClassVar[dict[str, Refusal]] = {
        "fp16": Refusal(
            "float16 needs loss scaling, which is not built yet; use bf16", enabled_only=True
        ),
        "amp": Refusal("apex is not used; use bf16", enabled_only=True),
        "torch_autocast": Refusal("use bf16", enabled_only=True),
        "prescale_gradients": Refusal("gradients are averaged as they are", (False,)),
        "gradient_predivide_factor": Refusal("gradients are averaged as they are", (1, 1.0)),
        "sparse_gradients": Refusal("gradients are dense", (False,)),
        "communication_data_type": Refusal("gradients travel in float32", (None, "fp32")),
        "wall_clock_breakdown": Refusal("there is no such timer; use torch.profiler", (False,)),
        "memory_breakdown": Refusal("there is no such report; use torch.profiler", (False,)),
        "dump_state": Refusal("there is no such dump", (False,)),
        "disable_allgather": Refusal(_ZERO_ONLY, (False,)),
        "zero_allow_untested_optimizer": Refusal(_ZERO_ONLY, (True, False)),
        "zero_force_ds_cpu_optimizer": Refusal(_ZERO_ONLY, (True, False)),
        "graph_harvesting": Refusal("it is for GPUs", (False,)),
        "activation_checkpointing": Refusal("call model.gradient_checkpointing_enable()"),
        "tensor_parallel": Refusal("only data and expert parallelism are built"),
        "pipeline": Refusal("only data and expert parallelism are built"),
        "sequence_parallel_size": Refusal("only data and expert parallelism are built", (1,)),
        "checkpoint": Refusal("checkpoints are written by torch's DCP, without options"),
        **dict.fromkeys(
            ("tensorboard", "wandb", "csv_monitor", "comet", "flops_profiler", "comms_logger"),
            Refusal(_MONITOR, enabled_only=True),
        ),
        **dict.fromkeys(
            ("autotuning", "elasticity", "compression_training", "data_efficiency", "aio"),
            Refusal("it is a feature of DeepSpeed alone", enabled_only=True),
        ),
    }


class BatchSizes(NamedTuple):
    """Samples an optimizer step over all ranks, samples a rank at a time, micro-batches a step."""

    train: int
    micro: int
    accumulation: int


def read_config(given: str | Path | Mapping[str, Any] | Config | None) -> Config:
    """Reads a configuration.

    Args:
        given: A path of a JSON file, a mapping, or a configuration already read.

    Raises:
        ConfigError: There is none, it cannot be read, or a key in it is wrong.
    """
    if isinstance(given, Config):
        return given
    if given is None:
        raise ConfigError(
            "config: none was given; pass config=, a path of a JSON file or a dict, such as"
            ' {"train_micro_batch_size_per_gpu": 1, "expert_parallel": {"enabled": true}}'
        )
    if isinstance(given, str | Path):
        given = _read_json(Path(given))
    config = read_section(Config, given)
    _check_zero_stage(config.zero_optimization.stage)
    _check_custom_keys(config.expert_parallel)
    _check_balance(config.expert_parallel)
    return config


def resolve_batch_sizes(config: Config, world_size: int) -> BatchSizes:
    """Completes the three batch sizes from those given, as DeepSpeed does.

    train_batch_size = train_micro_batch_size_per_gpu * gradient_accumulation_steps * world_size.

    Raises:
        ConfigError: They do not fit each other.
    """
    train = config.train_batch_size
    micro = config.train_micro_batch_size_per_gpu
    accumulation = config.gradient_accumulation_steps
    if train is not None:
        if micro is None:
            accumulation = accumulation or 1
            micro = train // (accumulation * world_size)
        elif accumulation is None:
            accumulation = train // (micro * world_size)
    micro = 1 if micro is None else micro
    accumulation = 1 if accumulation is None else accumulation
    product = micro * accumulation * world_size
    if train is not None and train != product:
        raise _batch_mismatch(config, world_size)
    return BatchSizes(product, micro, accumulation)


def _batch_mismatch(config: Config, world_size: int) -> ConfigError:
    micro = config.train_micro_batch_size_per_gpu
    accumulation = config.gradient_accumulation_steps
    unit = (micro or 1) * (accumulation or 1) * world_size
    both = micro is not None and accumulation is not None
    return ConfigError(
        f"config: train_batch_size: given {config.train_batch_size}; allowed: "
        f"{unit if both else f'a multiple of {unit}'}, because train_batch_size ="
        f" train_micro_batch_size_per_gpu ({micro or 'not given'}) *"
        f" gradient_accumulation_steps ({accumulation or 'not given'}) * {world_size} ranks."
        " Change one of them, or leave one out to have it computed"
    )


def _check_custom_keys(config: ExpertParallelConfig) -> None:
    given = [name for name in _CUSTOM_KEYS if getattr(config, name) not in (None, 1.0)]
    if config.moe_layer_pattern is None and given:
        raise wrong_value(
            f"expert_parallel.{given[0]}",
            getattr(config, given[0]),
            "nothing without moe_layer_pattern, whose layers it describes",
            "Of a model of transformers the model's own router decides it: remove the key.",
        )


def _check_zero_stage(stage: int) -> None:
    if stage != 0:
        raise wrong_value(
            "zero_optimization.stage",
            stage,
            "0",
            "ZeRO stages 1 to 3 are not supported yet; the experts are sharded by"
            " expert_parallel.autoep_size instead. Set it to 0 or remove zero_optimization.",
        )


def _check_balance(experts: ExpertParallelConfig) -> None:
    if experts.load_balance_coeff and experts.router == "sinkhorn":
        raise wrong_value(
            "expert_parallel.load_balance_coeff",
            experts.load_balance_coeff,
            'null with "router": "sinkhorn"',
            "Sinkhorn routing balances the choice itself and reads no bias; remove one of the two.",
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"config: {path} is no valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    for name, _ in pairs:
        if sum(name == other for other, _ in pairs) > 1:
            raise ConfigError(f"config: {name}: given twice in one object; remove one of them")
    return keys
