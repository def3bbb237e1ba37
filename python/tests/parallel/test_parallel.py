"""Training over real processes: one launch for each launcher and number of ranks runs all cases."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cases_checkpoints  # noqa: F401
import cases_engine  # noqa: F401
import cases_lora  # noqa: F401
import cases_parity  # noqa: F401
import cases_routing  # noqa: F401
import cases_script  # noqa: F401
import pytest
from registry import CASES

HERE = Path(__file__).parent
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


class Launch(NamedTuple):
    """How ranks are started.

    Attributes:
        command: The launcher and its options, before the interpreter or the script.
        size: The number of ranks.
        modules: The modules whose cases they run: those of numbers for every launcher, the
            others once for each number of ranks.
    """

    command: list[str]
    size: int
    modules: tuple[str, ...]

    def cases(self) -> list[str]:
        """The names of the cases that it runs."""
        return [
            name
            for name, case in CASES.items()
            if case.fits(self.size) and case.run.__module__ in self.modules
        ]


NUMBERS = ("cases_parity",)
EVERYTHING = (
    *NUMBERS,
    "cases_checkpoints",
    "cases_engine",
    "cases_lora",
    "cases_routing",
    "cases_script",
)
LAUNCHES = {
    "python": Launch([], 1, EVERYTHING),
    "mpirun-1": Launch([*MPIRUN, "1"], 1, NUMBERS),
    "mpirun-2": Launch([*MPIRUN, "2"], 2, NUMBERS),
    "mpirun-4": Launch([*MPIRUN, "4"], 4, EVERYTHING),
    "torchrun-2": Launch([*TORCHRUN, "2"], 2, EVERYTHING),
    "torchrun-4": Launch([*TORCHRUN, "4"], 4, NUMBERS),
}


def launch(name: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = LAUNCHES[name].command
    if command[:1] == ["mpirun"] and shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun")
    start = command if command[1:3] == TORCHRUN[1:3] else [*command, sys.executable]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "AUTOEP_NUM_THREADS": "1",
        "PYTHONPATH": path.rstrip(os.pathsep),
    }
    return subprocess.run(
        [*start, str(HERE / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=400,
        check=False,
    )


class Outcomes(NamedTuple):
    """What became of a launch.

    Attributes:
        reports: For each case, what each rank said: None for a pass.
        output: The end of what the launch wrote.
        returncode: Its exit status.
        threads: The names of the threads of each rank at its end.
    """

    reports: dict[str, list[str | None]]
    output: str
    returncode: int
    threads: list[list[str]]


@pytest.fixture(scope="session")
def outcomes_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcomes]:
    """Gives the outcomes of a launch, which is made once."""

    @functools.cache
    def outcomes(name: str) -> Outcomes:
        folder = tmp_path_factory.mktemp(name)
        result = launch(name, "run_cases.py", str(folder), *LAUNCHES[name].modules)
        reports: dict[str, list[str | None]] = {}
        for lines in sorted(folder.glob("rank*.jsonl")):
            for line in lines.read_text().splitlines():
                entry = json.loads(line)
                reports.setdefault(entry["case"], []).append(entry["failure"])
        output = f"{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
        threads = [json.loads(file.read_text()) for file in folder.glob("threads*.json")]
        return Outcomes(reports, output, result.returncode, threads)

    return outcomes


@pytest.mark.parametrize(
    ("launcher", "name"),
    [
        pytest.param(launcher, name, id=f"{launcher}-{name}")
        for launcher, how in LAUNCHES.items()
        for name in how.cases()
    ],
)
def test_case(outcomes_of: Callable[[str], Outcomes], launcher: str, name: str) -> None:
    outcomes = outcomes_of(launcher)
    reports = outcomes.reports.get(name, [])
    failures = [failure for failure in reports if failure is not None]
    assert not failures, "\n".join(failures)
    size = LAUNCHES[launcher].size
    assert len(reports) == size, f"{len(reports)} of {size} ranks ran it\n{outcomes.output}"


@pytest.mark.parametrize("launcher", LAUNCHES)
def test_launch_ends_well(outcomes_of: Callable[[str], Outcomes], launcher: str) -> None:
    outcomes = outcomes_of(launcher)
    assert outcomes.returncode == 0, outcomes.output


@pytest.mark.parametrize("launcher", LAUNCHES)
def test_no_thread_of_a_process_group_outlives_the_interpreter(
    outcomes_of: Callable[[str], Outcomes], launcher: str
) -> None:
    """One that lets go of a tensor then aborts the process."""
    threads = outcomes_of(launcher).threads
    assert len(threads) == LAUNCHES[launcher].size
    assert not [name for names in threads for name in names if "gloo" in name]


@pytest.mark.parametrize("launcher", ["mpirun-2", "torchrun-2"])
def test_missing_rank_is_named_at_the_deadline(launcher: str, tmp_path: Path) -> None:
    result = launch(launcher, "missing_rank.py", str(tmp_path))
    said = (tmp_path / "error.txt").read_text() if (tmp_path / "error.txt").exists() else ""
    assert "DeadlineError" in said, result.stderr[-4000:]
    assert "rank 1" in said or "ranks 1" in said, said


@pytest.mark.parametrize("launcher", ["mpirun-2", "torchrun-2"])
def test_an_exception_on_one_rank_ends_the_job(launcher: str) -> None:
    """Long before the deadline: `launch` waits for less than that."""
    result = launch(launcher, "failing_rank.py")
    assert result.returncode != 0
    assert "this rank has had enough" in result.stderr
