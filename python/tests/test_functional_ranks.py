"""The functional API over real processes: one launch for each launcher and number of ranks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ranks_functional.py")


def launch(command: list[str], ranks: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "AUTOEP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    for rank in range(ranks):
        assert f"rank {rank} of {ranks} passed" in result.stdout, output


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_torchrun(ranks: int) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch([*command, f"--nproc_per_node={ranks}", str(SCRIPT), "torch"], ranks)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="there is no mpirun")
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_mpirun(ranks: int) -> None:
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)]
    launch([*command, sys.executable, str(SCRIPT), "mpi"], ranks)
