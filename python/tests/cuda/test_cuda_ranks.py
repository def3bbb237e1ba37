"""Training over two GPUs: one launch runs the cases of `cases_gpus`."""

from __future__ import annotations

from collections.abc import Callable

import cases_gpus  # noqa: F401
import pytest
import torch
from support import case_launches
from support.case_launches import Launcher, Outcomes, every_case
from support.launches import torchrun

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")

# Named apart from the launchers of CPUs: a session may run both, and tells cases by launcher.
LAUNCHERS = {"gpus-2": Launcher(torchrun(2), 2, ("cases_gpus",), on_gpus=True)}


@pytest.fixture(scope="session")
def outcomes_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Outcomes]:
    """Gives the outcomes of a launcher's cases, which run once."""
    return case_launches.outcomes_of(LAUNCHERS, request.session.items, tmp_path_factory)


@pytest.mark.parametrize(("launcher", "name"), every_case(LAUNCHERS))
def test_case(outcomes_of: Callable[[str], Outcomes], launcher: str, name: str) -> None:
    outcomes_of(launcher).check(name)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launch_ends_well(outcomes_of: Callable[[str], Outcomes], launcher: str) -> None:
    for launched in outcomes_of(launcher).launches:
        assert launched.returncode == 0 or launched.has_failures, launched.output
