"""The text of names and sizes in an inspection."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def short_names(names: Sequence[str]) -> str:
    """Joins names that differ in one number: `model.layers.3-5,7.mlp`."""
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


def byte_text(count: int) -> str:
    """Returns a number of bytes in the largest unit that leaves 1 or more."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {_UNITS[unit]}"
