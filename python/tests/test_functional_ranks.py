"""The functional API over real processes: one launch for each launcher and number of ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.launches import launch, mpirun, torchrun

SCRIPT = Path(__file__).with_name("ranks_functional.py")


def check(command: list[str], transport: str, ranks: int) -> None:
    result = launch(command, SCRIPT, transport, timeout=240)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    for rank in range(ranks):
        assert f"rank {rank} of {ranks} passed" in result.stdout, output


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_torchrun(ranks: int) -> None:
    check(torchrun(ranks), "torch", ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_mpirun(ranks: int) -> None:
    check(mpirun(ranks), "mpi", ranks)
