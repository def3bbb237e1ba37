"""Covers: a few rows of arguments that have every combination of so many values."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

Arguments = Mapping[str, Any]


def cover(rows: Mapping[str, Arguments], strength: int) -> list[str]:
    """Chooses rows that together have every combination of `strength` values that `rows` have.

    A strength of 1 covers every value, one of 2 every pair of values. The choice is greedy: the
    next row is the one with the most combinations that are still missing, and the last of these if
    there are several, because later values of an argument are the larger ones.

    Args:
        rows: The arguments of each row, of the same names, by the name of the row.
        strength: The number of values in a combination. Rows that have fewer are all chosen.

    Returns:
        The names of the chosen rows, in the order of `rows`.
    """
    offered = {name: combinations(arguments, strength) for name, arguments in rows.items()}
    missing = set().union(*offered.values())
    chosen = set()
    while missing:
        best = max(reversed(offered), key=lambda name: len(offered[name] & missing))
        chosen.add(best)
        missing -= offered[best]
    return [name for name in rows if name in chosen]


def combinations(arguments: Arguments, strength: int) -> set[tuple[tuple[str, str], ...]]:
    """Returns the combinations of `strength` values; of fewer values, the one of all of them."""
    values = [(name, repr(value)) for name, value in arguments.items()]
    return set(itertools.combinations(values, min(strength, len(values))))
