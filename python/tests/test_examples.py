"""The examples run."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoep import functional

EXAMPLES = Path(__file__).parents[1] / "examples"
TRAIN = EXAMPLES / "train_hf.py"


def run_example(*command: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "AUTOEP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def run_here(monkeypatch: pytest.MonkeyPatch, *command: str) -> None:
    """Runs a script on one thread of this process, which has imported what it needs already."""
    monkeypatch.setattr(sys, "argv", list(command))
    threads = torch.get_num_threads(), functional.num_threads()
    torch.set_num_threads(1)
    functional.set_num_threads(1)
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        torch.set_num_threads(threads[0])
        functional.set_num_threads(threads[1])


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3"])
def test_train_hf_trains_each_family(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first by a command, as a reader would; the others spare the imports."""
    report = tmp_path / "run.json"
    command = [str(TRAIN), "--model", family, "--steps", "1", "--out", str(report)]
    if family == "mixtral":
        run_example(*command)
    else:
        run_here(monkeypatch, *command)
    # Random weights know nothing: the loss of 256 bytes is near log(256).
    assert json.loads(report.read_text())["losses"] == [pytest.approx(5.545, abs=0.2)]


def test_experts_implementation_gives_the_numbers_of_transformers_own() -> None:
    said = run_example(str(EXAMPLES / "experts_implementation.py"))
    losses = re.findall(r"(\w+) +loss ([\d.]+)  gradient norm ([\d.]+)", said)
    (theirs, *their_numbers), (mine, *my_numbers) = losses
    assert (theirs, mine) == ("grouped_mm", "autoep")
    assert [float(n) for n in my_numbers] == [pytest.approx(float(n), 1e-5) for n in their_numbers]


def test_ep_implementation_trains_with_the_experts_on_two_ranks() -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    said = run_example(*launcher, str(EXAMPLES / "ep_implementation.py"))
    for rank in range(2):
        assert f"rank {rank}: (4, 512, 128) of (8, 512, 128)" in said
    losses = [float(loss) for loss in re.findall(r"step \d: loss ([\d.]+)", said)]
    assert losses[0] == pytest.approx(5.545, abs=0.2)
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 5
