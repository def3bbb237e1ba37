"""The examples run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[1] / "examples" / "train_hf.py"


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v2", "deepseek_v3"])
def test_train_hf_trains_each_family(family: str, tmp_path: Path) -> None:
    report = tmp_path / "run.json"
    command = [sys.executable, str(TRAIN), "--model", family, "--steps", "1", "--out", str(report)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    # Random weights know nothing: the loss of 256 bytes is near log(256).
    assert json.loads(report.read_text())["losses"] == [pytest.approx(5.545, abs=0.2)]
