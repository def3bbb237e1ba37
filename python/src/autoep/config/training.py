"""The configuration of a training run: a path, a dict, or a DeepSpeed JSON.

Every key is honoured, or refused with its reason; an unknown key is an error. "auto" means the
default in these classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from autoep.config.expert_parallel import ExpertParallelConfig, check_expert_parallel
from autoep.config.schema import (
    AMOUNT,
    COUNT,
    FLAG,
    OBJECT,
    POSITIVE,
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

_ZERO_ONLY = "it acts with ZeRO stages 1 to 3 only, which are not supported yet"
_MONITOR = "there is no monitor to configure"


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
    """`bf16`: computes in bfloat16, with weights, optimizer states and gradients in float32."""

    enabled: bool = key(False, FLAG)

    refused: ClassVar[dict[str, Refusal]] = {
        "immediate_grad_update": Refusal("gradients are reduced when a step ends", (True, "auto")),
        "check_grad_overflow": Refusal("bfloat16 has the range of float32", (False, "auto")),
    }


@dataclass(frozen=True)
class ZeroConfig:
    """`zero_optimization`: stage 0 only; stages 1 to 3 are refused, as not supported yet."""

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
    """A training run, in the format of DeepSpeed's JSON.

    Attributes:
        train_batch_size: Samples per optimizer step, over all ranks.
        train_micro_batch_size_per_gpu: Samples per micro-batch of a rank; by default
            `train_batch_size` divided by the ranks and the micro-batches per step, or 1.
        gradient_accumulation_steps: Micro-batches per optimizer step; by default implied by the
            other two sizes if both are given, or 1.
        gradient_clipping: The largest global gradient norm; 0 disables clipping.
        steps_per_print: Rank 0 prints the state of the run every this many steps.
        seed: The seed of the order of the training data.
        dataloader_drop_last: Whether to drop a last, smaller micro-batch.
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
        "compile": Refusal(
            "call engine.module.compile() after autoep.initialize", enabled_only=True
        ),
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
    """Samples per optimizer step, samples per micro-batch of a rank, micro-batches per step."""

    train: int
    micro: int
    accumulation: int


def read_config(given: str | Path | Mapping[str, Any] | Config | None) -> Config:
    """Reads a configuration.

    Args:
        given: The path of a JSON file, a mapping, or a configuration that was already read.

    Raises:
        ConfigError: No configuration was given, it cannot be read, or a key in it is wrong.
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
    check_expert_parallel(config.expert_parallel)
    return config


def resolve_batch_sizes(config: Config, world_size: int) -> BatchSizes:
    """Computes the batch sizes that were not given from the others, as DeepSpeed does.

    train_batch_size = train_micro_batch_size_per_gpu * gradient_accumulation_steps * world_size.

    Raises:
        ConfigError: The sizes given contradict each other.
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


def _check_zero_stage(stage: int) -> None:
    if stage != 0:
        raise wrong_value(
            "zero_optimization.stage",
            stage,
            "0",
            "ZeRO stages 1 to 3 are not supported yet; the experts are sharded by"
            " expert_parallel.autoep_size instead. Set it to 0 or remove zero_optimization.",
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique_keys)
    except OSError as error:
        raise ConfigError(f"config: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"config: {path} is not valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    for name, _ in pairs:
        if sum(name == other for other, _ in pairs) > 1:
            raise ConfigError(f"config: {name}: given twice in one object; remove one of them")
    return keys
