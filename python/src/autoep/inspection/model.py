"""The result of an inspection, and its text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from autoep.inspection.text import byte_text, short_names

_EP_SIZES = (1, 2, 4, 8, 16, 32, 64)
_WIDTH = 100


@dataclass(frozen=True)
class Blocks:
    """Identical MoE blocks of a model.

    Attributes:
        names: The blocks' names in the model.
        family: Their origin, as in `MoELayerSpec`.
        num_experts: E.
        top_k: K; None if neither the router nor the config defines it.
        hidden_size: H of the experts.
        ffn_size: F.
        activation: The engine's name for it; None if the module computes it itself.
        router: The router's maths, in words.
        shared_experts: The block's experts for all tokens, in words; empty for none.
        parameters: The number of parameters in the experts of one block.
        expert_bytes: The size of one expert's weights.
        interfaces: The interfaces that support these experts: "initialize",
            "experts_implementation" and "ep_implementation".
    """

    names: tuple[str, ...]
    family: str
    num_experts: int
    top_k: int | None
    hidden_size: int
    ffn_size: int
    activation: str | None
    router: str
    shared_experts: str
    parameters: int
    expert_bytes: int
    interfaces: tuple[str, ...]


@dataclass(frozen=True)
class Unsupported:
    """Modules that look like experts, and the reason why they are not spread.

    Attributes:
        names: Their names in the model.
        reason: The reason.
    """

    names: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Inspection:
    """The MoE blocks of a model; `str` formats them as a table.

    Attributes:
        model: The model's class.
        blocks: Its MoE blocks; identical ones are grouped.
        unsupported: The modules that are not spread.
        parameters: The number of parameters in the whole model.
        dense_bytes: The size of all weights except those of experts that are spread.
        dtype: The dtype of the experts' weights.
    """

    model: str
    blocks: tuple[Blocks, ...]
    unsupported: tuple[Unsupported, ...]
    parameters: int
    dense_bytes: int
    dtype: str

    def expert_bytes(self, ep_size: int) -> int:
        """Returns the size in bytes of the experts' weights on the rank with the most of them."""
        return sum(
            len(blocks.names) * blocks.expert_bytes * -(-blocks.num_experts // ep_size)
            for blocks in self.blocks
        )

    def ep_sizes(self) -> list[int]:
        """Returns the powers of two, as EP sizes, that leave no rank without experts."""
        fewest = min((blocks.num_experts for blocks in self.blocks), default=1)
        return [size for size in _EP_SIZES if size <= fewest]

    def __str__(self) -> str:
        lines = [f"{self.model}: {self.parameters:,} parameters, {self.dtype}"]
        for blocks in self.blocks:
            lines += ["", *_block_lines(blocks)]
        if self.blocks:
            lines += ["", *_memory_lines(self)]
        for refused in self.unsupported:
            where = f"{short_names(refused.names)}: " if refused.names else ""
            lines += ["", *textwrap.wrap(f"not supported: {where}{refused.reason}", _WIDTH)]
        return "\n".join(lines)


def _block_lines(blocks: Blocks) -> Iterator[str]:
    top_k = "?" if blocks.top_k is None else blocks.top_k
    activation = blocks.activation or "the module's own"
    rows = {
        "family": blocks.family,
        "experts": f"{blocks.num_experts}, top-{top_k}",
        "each expert": f"{blocks.hidden_size} → {blocks.ffn_size} → {blocks.hidden_size},"
        f" {activation}",
        "router": blocks.router,
        "shared experts": blocks.shared_experts or "none",
        "parameters": f"{blocks.parameters:,} in the experts of each block",
        "interfaces": ", ".join(blocks.interfaces),
    }
    count = len(blocks.names)
    yield f"{short_names(blocks.names)}: {count} MoE block{'s' * (count > 1)}"
    for name, value in rows.items():
        yield f"  {name:<15} {value}"


def _memory_lines(found: Inspection) -> Iterator[str]:
    yield "weights per rank  experts     others        all"
    for size in found.ep_sizes():
        experts = found.expert_bytes(size)
        cells = (experts, found.dense_bytes, experts + found.dense_bytes)
        yield f"  ep_size {size:<5} " + "".join(f"{byte_text(cell):>11}" for cell in cells)
