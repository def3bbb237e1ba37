"""`ep_implementation="autoep"` with families of each kind of experts and routers."""

from __future__ import annotations

from pathlib import Path

from support.families.table import TRIED
from support.launches import launch, torchrun

SCRIPT = Path(__file__).with_name("expert_parallelism.py")


def test_families_in_transformers_own_expert_parallelism(tmp_path: Path) -> None:
    result = launch(torchrun(2), SCRIPT, str(tmp_path), *TRIED, timeout=300)
    output = result.stdout + result.stderr[-8000:]
    assert result.returncode == 0, output
    assert result.stdout.count("passed") == 2 * len(TRIED), output
