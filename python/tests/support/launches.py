"""Launches of ranks that are processes, under mpirun or torchrun."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parents[1]
# pytest's `pythonpath` of pyproject.toml, for ranks.
_PATHS = (_TESTS, _TESTS.parent / "benchmarks")


def mpirun(ranks: int) -> list[str]:
    """Returns the command before a script."""
    return ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(ranks), sys.executable]


def torchrun(ranks: int) -> list[str]:
    """Returns the command before a script."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={ranks}"]


def launch(
    command: list[str], script: Path, *arguments: str, timeout: float, on_gpus: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a script on every rank, each with one thread; skips the test if mpirun is missing.

    The ranks see no GPU unless `on_gpus`.
    """
    if command[0] == "mpirun" and shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun")
    paths = [*map(str, _PATHS), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "AUTOEP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths).rstrip(os.pathsep),
    }
    if not on_gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return subprocess.run(
        [*command, str(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout,
        check=False,
    )
