"""Covers: a few combinations of arguments that stand for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

Arguments = Mapping[str, Any]


def cover(rows: Mapping[str, Arguments], strength: int) -> list[str]:
    """Chooses rows that have every combination of `strength` values that any of `rows` has.

    With a strength of two no pair of values is left out, with one no value. The choice is greedy:
    next comes the row with the most combinations that are still missing. Of several the last one
    is taken: later values of an argument are the larger ones.

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
    """The combinations of `strength` values, or the one of all values if there are fewer."""
    values = [(name, repr(value)) for name, value in arguments.items()]
    return set(itertools.combinations(values, min(strength, len(values))))
