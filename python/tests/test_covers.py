"""Covers leave no combination out, and are small."""

from __future__ import annotations

import itertools

import pytest
from support.covers import combinations, cover

Rows = dict[str, dict[str, object]]


def product(*counts: int) -> Rows:
    """Every combination of arguments that have so many values."""
    values = itertools.product(*map(range, counts))
    return {str(row): {f"argument{i}": value for i, value in enumerate(row)} for row in values}


@pytest.mark.parametrize("strength", [1, 2, 3])
@pytest.mark.parametrize("counts", [(2, 2, 3), (4, 2, 3), (3, 3, 3, 3), (2,) * 7, (5, 3), (4,)])
def test_every_combination_is_in_a_chosen_row(counts: tuple[int, ...], strength: int) -> None:
    rows = product(*counts)
    chosen = cover(rows, strength)
    covered = set().union(*(combinations(rows[name], strength) for name in chosen))
    assert covered == set().union(*(combinations(row, strength) for row in rows.values()))
    assert chosen == [name for name in rows if name in chosen]


def test_combinations_that_no_row_has_are_not_asked_for() -> None:
    rows = {name: row for name, row in product(3, 3, 2).items() if sum(row.values()) % 2}
    chosen = cover(rows, 2)
    for strength in (1, 2):
        covered = set().union(*(combinations(rows[name], strength) for name in chosen))
        assert covered == set().union(*(combinations(row, strength) for row in rows.values()))


@pytest.mark.parametrize(
    ("counts", "strength", "most"),
    [((4, 2, 3), 2, 12), ((2, 2, 3), 2, 6), ((2,) * 7, 2, 8), ((4, 2, 3), 1, 4), ((4, 3), 2, 12)],
)
def test_a_cover_is_small(counts: tuple[int, ...], strength: int, most: int) -> None:
    assert len(cover(product(*counts), strength)) <= most


def test_values_need_not_be_hashable() -> None:
    rows = {"a": {"x": [1]}, "b": {"x": [1, 2]}, "c": {"x": [1]}}
    assert cover(rows, 2) == ["b", "c"]


def test_a_row_without_arguments_is_chosen() -> None:
    assert cover({"alone": {}}, 2) == ["alone"]
