"""Training over real processes: one launch for each launcher and number of ranks runs its cases.

`pytest python/tests/parallel -k NAME` launches the cases of that name alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import cases_checkpoints  # noqa: F401
import cases_controls  # noqa: F401
import cases_engine  # noqa: F401
import cases_lora  # noqa: F401
import cases_parity  # noqa: F401
import cases_routing  # noqa: F401
import cases_script  # noqa: F401
import pytest
from support import case_launches
from support.case_launches import Launcher, Outcomes, every_case
from support.cases import CASES
from support.covers import combinations
from support.launches import launch, mpirun, torchrun

HERE = Path(__file__).parent

# Those of numbers for every launcher, the others once for each number of ranks. Two ranks run every
# combination of arguments; four run every pair of values over MPI, and over torch, which is another
# way for the same rows, every value. `make matrix` runs every combination everywhere.
NUMBERS = ("cases_parity",)
EVERYTHING = (
    *NUMBERS,
    "cases_checkpoints",
    "cases_controls",
    "cases_engine",
    "cases_lora",
    "cases_routing",
    "cases_script",
)
LAUNCHERS = {
    "python": Launcher([sys.executable], 1, EVERYTHING),
    "mpirun-1": Launcher(mpirun(1), 1, NUMBERS),
    "mpirun-2": Launcher(mpirun(2), 2, NUMBERS),
    "mpirun-4": Launcher(mpirun(4), 4, EVERYTHING, strength=2),
    "torchrun-2": Launcher(torchrun(2), 2, EVERYTHING),
    "torchrun-4": Launcher(torchrun(4), 4, NUMBERS, strength=1),
}


@pytest.fixture(scope="session")
def outcomes_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Outcomes]:
    """Gives the outcomes of a launcher's cases, which run once."""
    return case_launches.outcomes_of(LAUNCHERS, request.session.items, tmp_path_factory)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        matrix = metafunc.config.getoption("--matrix")
        metafunc.parametrize(("launcher", "name"), every_case(LAUNCHERS, matrix))


def test_case(outcomes_of: Callable[[str], Outcomes], launcher: str, name: str) -> None:
    outcomes_of(launcher).check(name)


@pytest.mark.parametrize("launcher", [name for name, how in LAUNCHERS.items() if how.strength])
def test_fewer_cases_leave_no_combination_of_values_out(launcher: str) -> None:
    how = LAUNCHERS[launcher]

    def covered(names: list[str]) -> set:
        cases = [CASES[name] for name in names]
        return {(c.run, of) for c in cases for of in combinations(c.arguments, how.strength)}

    assert covered(how.cases()) == covered(how.cases(matrix=True))
    assert len(how.cases()) < len(how.cases(matrix=True))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launch_ends_well(outcomes_of: Callable[[str], Outcomes], launcher: str) -> None:
    """But for a launch that ends because a case has failed, which that case's test tells."""
    for launched in outcomes_of(launcher).launches:
        assert launched.returncode == 0 or launched.has_failures, launched.output


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_no_thread_of_a_process_group_outlives_the_interpreter(
    outcomes_of: Callable[[str], Outcomes], launcher: str
) -> None:
    """One that lets go of a tensor then aborts the process."""
    for launched in outcomes_of(launcher).launches:
        if launched.returncode == 0 or not launched.has_failures:
            assert len(launched.threads) == LAUNCHERS[launcher].size
        assert not [name for names in launched.threads for name in names if "gloo" in name]


@pytest.mark.parametrize("launcher", ["mpirun-2", "torchrun-2"])
def test_missing_rank_is_named_at_the_deadline(launcher: str, tmp_path: Path) -> None:
    command = LAUNCHERS[launcher].command
    result = launch(command, HERE / "missing_rank.py", str(tmp_path), timeout=400)
    said = (tmp_path / "error.txt").read_text() if (tmp_path / "error.txt").exists() else ""
    assert "DeadlineError" in said, result.stderr[-4000:]
    assert "rank 1" in said or "ranks 1" in said, said


@pytest.mark.parametrize("launcher", ["mpirun-2", "torchrun-2"])
def test_an_exception_on_one_rank_ends_the_job(launcher: str) -> None:
    """Long before the deadline: `launch` waits for less than that."""
    result = launch(LAUNCHERS[launcher].command, HERE / "failing_rank.py", timeout=400)
    assert result.returncode != 0
    assert "this rank has had enough" in result.stderr
