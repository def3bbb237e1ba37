"""Cases of which some fail, for test_runner.py; pytest does not collect them by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from support import case_launches
from support.case_launches import Launcher, Outcomes, every_case
from support.cases import Ranks, case

LAUNCHERS = {"python": Launcher([sys.executable], 1, ("failing_example",))}


def exchange(ranks: Ranks) -> None:
    if ranks.size > 1:
        total = torch.tensor(ranks.rank + 1)
        dist.all_reduce(total)
        assert total == ranks.size * (ranks.size + 1) // 2


@case(sizes=(1, 2))
def the_first_passes(ranks: Ranks) -> None:
    exchange(ranks)


@case(sizes=(1, 2))
def all_ranks_fail(ranks: Ranks) -> None:
    exchange(ranks)
    raise ValueError(f"rank {ranks.rank} was to fail")


@case(sizes=(1, 2))
def the_second_passes(ranks: Ranks) -> None:
    exchange(ranks)


@case(sizes=(2,))
def one_rank_fails_at_the_end(ranks: Ranks) -> None:
    exchange(ranks)
    if ranks.rank == 1:
        raise ValueError("rank 1 was to fail")


@case(sizes=(2,))
def the_third_passes(ranks: Ranks) -> None:
    exchange(ranks)


@case(sizes=(2,))
def one_rank_fails_while_the_other_waits(ranks: Ranks) -> None:
    if ranks.rank == 0:
        raise ValueError("rank 0 was to fail")
    exchange(ranks)


@case(sizes=(2,))
def the_last_passes(ranks: Ranks) -> None:
    exchange(ranks)


@pytest.fixture(scope="session")
def outcomes_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Outcomes]:
    return case_launches.outcomes_of(LAUNCHERS, request.session.items, tmp_path_factory)


@pytest.mark.parametrize(("launcher", "name"), every_case(LAUNCHERS))
def test_case(outcomes_of: Callable[[str], Outcomes], launcher: str, name: str) -> None:
    outcomes = outcomes_of(launcher)
    print("begun:", *(case for launched in outcomes.launches for case in launched.begun))
    outcomes.check(name)
