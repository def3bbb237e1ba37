"""Rows that travel through memory which GPUs share, between two ranks on one GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.launches import launch, torchrun

SCRIPT = Path(__file__).parents[1] / "ranks_on_one_gpu.py"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_layers_over_shared_memory() -> None:
    result = launch(torchrun(2), SCRIPT, timeout=240, on_gpus=True)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    for rank in range(2):
        assert f"rank {rank} of 2 passed" in result.stdout, output
