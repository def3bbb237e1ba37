"""What the parts of a MoE block are called."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Names:
    """The names of a block's parts, and what is known of it besides.

    Attributes:
        routers: Of its router, in the order of trying.
        experts: Of its experts.
        weights: Of an expert's weights, or the stacked ones: gate, up, down, or without the up
            where gate and up are one or there is no gate; empty to find them by trying.
        shared: Of its experts for all tokens.
        top_ks: Of the number K, on the block or its router.
        top_k: K itself; None to read it there.
        routing: Fields of a `Routing` that are known.
        score_apply: That of a `MoELayerSpec`, if it is known.
    """

    routers: tuple[str, ...] = ("gate", "router")
    experts: str = "experts"
    weights: tuple[str, ...] = ()
    shared: tuple[str, ...] = ("shared_expert", "shared_experts", "shared_mlp")
    top_ks: tuple[str, ...] = ("top_k", "num_experts_per_tok")
    top_k: int | None = None
    routing: dict[str, Any] = field(default_factory=dict)
    score_apply: str | None = None

    def router_of(self, block: nn.Module) -> nn.Module | None:
        """The router; None where there is none of these names."""
        return next((getattr(block, name) for name in self.routers if hasattr(block, name)), None)

    def shared_of(self, block: nn.Module) -> str | None:
        """The name of the first that the block has."""
        children = [name for name, _ in block.named_children()]
        found = itertools.product(self.shared, children)
        return next((name for wanted, name in found if re.fullmatch(wanted, name)), None)

    def top_k_of(self, block: nn.Module, router: nn.Module | None) -> int:
        """K; 0 where nothing says it."""
        if self.top_k is not None:
            return self.top_k
        places = itertools.product(self.top_ks, (block, router))
        return next((getattr(part, name) for name, part in places if hasattr(part, name)), 0)


USUAL = Names()
