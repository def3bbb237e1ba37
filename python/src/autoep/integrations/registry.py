"""Registers "autoep" in transformers' registries of experts and of expert parallelism.

The name is in them as soon as both libraries are imported, in either order. This module imports
neither torch nor transformers before a model runs.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from autoep.integrations.import_hook import after_import


def register_implementations() -> None:
    """Registers "autoep" with transformers, now or when it is imported."""
    after_import("transformers.integrations.moe", _register_experts)
    after_import("transformers.distributed.expert_parallel", _register_expert_parallelism)


def _register_experts(module: ModuleType) -> None:
    registry = getattr(module, "ExpertsInterface", None)
    if registry is not None:
        registry.register("autoep", _experts_forward)


def _register_expert_parallelism(module: ModuleType) -> None:
    registry = getattr(module, "EPImplementationInterface", None)
    if registry is not None:
        registry.register("autoep", _expert_parallelism)


def _experts_forward(self: Any, hidden_states: Any, top_k_index: Any, top_k_weights: Any) -> Any:
    from autoep.integrations.experts_implementation import experts_forward

    return experts_forward(self, hidden_states, top_k_index, top_k_weights)


def _expert_parallelism(experts: Any, ep_mesh: Any, tp_mesh: Any) -> Any:
    from autoep.integrations.ep_implementation import ExpertParallelism

    return ExpertParallelism(experts, ep_mesh, tp_mesh)
