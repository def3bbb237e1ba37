"""The names of the parts of a MoE block."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Names:
    """The names of a block's parts, and other known facts about it.

    Attributes:
        routers: The names of its router, in the order of trying.
        experts: The names of its experts.
        weights: The names of an expert's weights, or of the stacked ones: gate, up, down; without
            the up if gate and up are one or there is no gate; empty to find them by trying.
        shared: The names of its experts for all tokens.
        top_ks: The names of the number K, on the block or its router.
        top_k: K; None to read it from such an attribute.
        routing: The known fields of a `BlockRouter`.
        score_apply: The field of a `MoELayerSpec`, if it is known.
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
        """Returns the router; None if no name matches."""
        return next((getattr(block, name) for name in self.routers if hasattr(block, name)), None)

    def shared_of(self, block: nn.Module) -> str | None:
        """Returns the name of the first shared expert that the block has."""
        children = [name for name, _ in block.named_children()]
        found = itertools.product(self.shared, children)
        return next((name for wanted, name in found if re.fullmatch(wanted, name)), None)

    def top_k_of(self, block: nn.Module, router: nn.Module | None) -> int:
        """Returns K; 0 if it is not known."""
        if self.top_k is not None:
            return self.top_k
        places = itertools.product(self.top_ks, (block, router))
        return next((getattr(part, name) for name, part in places if hasattr(part, name)), 0)


USUAL = Names()
