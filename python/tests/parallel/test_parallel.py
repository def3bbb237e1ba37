"""Training over real processes: one launch for each launcher and number of ranks runs all cases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cases_engine  # noqa: F401
import cases_parity  # noqa: F401
import pytest
from registry import CASES

HERE = Path(__file__).parent
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
LAUNCHES = {
    "python": ([], 1),
    "mpirun-1": ([*MPIRUN, "1"], 1),
    "mpirun-2": ([*MPIRUN, "2"], 2),
    "mpirun-4": ([*MPIRUN, "4"], 4),
    "torchrun-2": ([*TORCHRUN, "2"], 2),
    "torchrun-4": ([*TORCHRUN, "4"], 4),
}


def launch(name: str, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, _ = LAUNCHES[name]
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


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The outcomes of a launch by case: None for a pass, else what every rank said."""
    folder = tmp_path_factory.mktemp(request.param)
    result = launch(request.param, "run_cases.py", str(folder))
    output = f"{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
    found: dict[str, list[str | None]] = {}
    for lines in sorted(folder.glob("rank*.jsonl")):
        for line in lines.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["case"], []).append(entry["failure"])
    return found, output, result.returncode


CASES_OF_LAUNCHES = [
    pytest.param(launcher, name, id=f"{launcher}-{name}")
    for launcher, (_, size) in LAUNCHES.items()
    for name, case in CASES.items()
    if case.fits(size)
]


@pytest.mark.parametrize(("outcomes", "name"), CASES_OF_LAUNCHES, indirect=["outcomes"])
def test_case(outcomes, name: str, request: pytest.FixtureRequest) -> None:
    found, output, _ = outcomes
    launcher = request.node.callspec.params["outcomes"]
    size = LAUNCHES[launcher][1]
    reports = found.get(name, [])
    failures = [failure for failure in reports if failure is not None]
    assert not failures, "\n".join(failures)
    assert len(reports) == size, f"{len(reports)} of {size} ranks ran it\n{output}"


@pytest.mark.parametrize("outcomes", LAUNCHES, indirect=True)
def test_launch_ends_well(outcomes) -> None:
    _, output, returncode = outcomes
    assert returncode == 0, output


@pytest.mark.parametrize("launcher", ["mpirun-2", "torchrun-2"])
def test_missing_rank_is_named_at_the_deadline(launcher: str, tmp_path: Path) -> None:
    result = launch(launcher, "missing_rank.py", str(tmp_path))
    said = (tmp_path / "error.txt").read_text() if (tmp_path / "error.txt").exists() else ""
    assert "DeadlineError" in said, result.stderr[-4000:]
    assert "rank 1" in said or "ranks 1" in said, said
