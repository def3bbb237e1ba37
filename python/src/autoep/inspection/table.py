"""An inspection as text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from autoep.inspection.report import Blocks, Inspection

_WIDTH = 100
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def as_text(found: Inspection) -> str:
    """The whole report."""
    lines = [f"{found.model}: {found.parameters:,} parameters, {found.dtype}"]
    for blocks in found.blocks:
        lines += ["", *_block_lines(blocks)]
    if found.blocks:
        lines += ["", *_memory_lines(found)]
    for refused in found.unsupported:
        where = f"{short_names(refused.names)}: " if refused.names else ""
        lines += ["", *textwrap.wrap(f"not supported: {where}{refused.reason}", _WIDTH)]
    return "\n".join(lines)


def _block_lines(blocks: Blocks) -> Iterator[str]:
    top_k = "?" if blocks.top_k is None else blocks.top_k
    activation = blocks.activation or "the module's own"
    rows = {
        "family": blocks.family,
        "experts": f"{blocks.num_experts}, top-{top_k}",
        "an expert": f"{blocks.hidden_size} → {blocks.ffn_size} → {blocks.hidden_size},"
        f" {activation}",
        "router": blocks.router,
        "shared experts": blocks.shared_experts or "none",
        "parameters": f"{blocks.parameters:,} in the experts of a block",
        "doors": ", ".join(map(str, blocks.doors)),
    }
    count = len(blocks.names)
    yield f"{short_names(blocks.names)}: {count} MoE block{'s' * (count > 1)}"
    for name, value in rows.items():
        yield f"  {name:<15} {value}"


def _memory_lines(found: Inspection) -> Iterator[str]:
    yield "weights a rank    experts     others        all"
    for size in found.ep_sizes():
        experts = found.expert_bytes(size)
        cells = (experts, found.dense_bytes, experts + found.dense_bytes)
        yield f"  ep_size {size:<5} " + "".join(f"{_bytes(cell):>11}" for cell in cells)


def short_names(names: Sequence[str]) -> str:
    """Names that differ in one number as one: `model.layers.3-5,7.mlp`."""
    numbered: dict[tuple[str, str], list[int]] = {}
    plain = []
    for name in names:
        match = re.fullmatch(r"(.*?\.)(\d+)((?:\..*)?)", name)
        if match is None:
            plain.append(name)
        else:
            numbered.setdefault((match[1], match[3]), []).append(int(match[2]))
    ranges = [f"{start}{_ranges(numbers)}{end}" for (start, end), numbers in numbered.items()]
    return ", ".join(plain + ranges)


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _bytes(count: int) -> str:
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {_UNITS[unit]}"
