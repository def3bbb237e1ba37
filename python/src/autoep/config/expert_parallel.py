"""The section `expert_parallel` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from autoep.config.custom_layers import CustomLayersConfig, check_custom_layers
from autoep.config.schema import (
    AMOUNT,
    FLAG,
    POSITIVE,
    SECONDS,
    TEXT,
    Refusal,
    inline,
    key,
    one_of,
    optional,
    wrong_value,
)


@dataclass(frozen=True)
class ExpertParallelConfig:
    """`expert_parallel`: how the experts are sharded over the ranks.

    Attributes:
        enabled: False trains the model as it is, with data parallelism only.
        autoep_size: The number of ranks that share one set of experts; divides the number of ranks.
            Default: its largest divisor that is at most the number of experts.
        preset_model: The family to look for in the model, by its `model_type`. Default: any.
        router: "model" keeps the model's choice of experts; "sinkhorn" balances it in training,
            with weights of its own.
        fused_router: Whether the engine computes the routers that it implements.
        load_balance_coeff: The amount by which each step moves the bias that a router adds for the
            selection only, against the load of all ranks. Default: the bias stays.
        dispatch: How rows travel between GPUs: "nccl"; "push", straight into the memory of the
            other GPUs, over NVLink; or "auto", push where all GPUs of an EP group reach each other.
        bitwise_across_ep_sizes: Whether results have the same bits for every number of ranks. True
            sends a row for each expert of a token. False sends a token once to each rank that has
            one of its experts, which moves fewer bytes and rounds each rank's sum. Default: true on
            CPUs, false on GPUs.
        num_threads: The engine's threads on this rank. Default: `AUTOEP_NUM_THREADS`, else the
            cores that this rank may use, divided among the ranks that share them.
        timeout: Seconds after which a missing rank is an error.
        custom_layers: The keys that describe the layers of a custom model.
    """

    enabled: bool = key(True, FLAG)
    autoep_size: int | None = key(None, POSITIVE)
    preset_model: str | None = key(None, optional(TEXT))
    router: str = key("model", one_of("model", "sinkhorn"))
    fused_router: bool = key(True, FLAG)
    load_balance_coeff: float | None = key(None, optional(AMOUNT))
    dispatch: str = key("nccl", one_of("nccl", "push", "auto"))
    bitwise_across_ep_sizes: bool | None = key(None, optional(FLAG))
    num_threads: int | None = key(None, POSITIVE)
    timeout: float = key(600.0, SECONDS)
    custom_layers: CustomLayersConfig = inline(CustomLayersConfig)

    refused: ClassVar[dict[str, Refusal]] = {
        "deterministic": Refusal("every result is deterministic", (True, "auto")),
        "use_grouped_mm": Refusal("the engine always groups its products", (True, "auto")),
        "grouped_mm_backend": Refusal("the engine has one of its own", ("auto",)),
    }


def check_expert_parallel(config: ExpertParallelConfig) -> None:
    """Raises if keys of the section conflict."""
    check_custom_layers(config.custom_layers)
    if config.load_balance_coeff and config.router == "sinkhorn":
        raise wrong_value(
            "expert_parallel.load_balance_coeff",
            config.load_balance_coeff,
            'null with "router": "sinkhorn"',
            "Sinkhorn routing balances the choice itself and reads no bias; remove one of the two.",
        )
