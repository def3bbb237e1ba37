"""`ep_implementation="autoep"` with families of each kind of experts and routers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

FAMILIES = [
    "deepseek_v3",  # shared experts, a bias for the choice
    "gpt_oss",  # transposed, biases, interleaved, clamped
    "nemotron_h",  # no gate
    "minimax_m3_vl_text",  # clamped, concatenated
    "aria_text",  # transposed
    "ernie4_5_moe",
    "granitemoe",
    "jamba",
    "lfm2_moe",
    "afmoe",
    "hunyuan_v1_moe",
]


def test_families_in_transformers_own_expert_parallelism(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    paths = [str(HERE.parent), str(HERE.parent / "parallel"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "AUTOEP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths).rstrip(os.pathsep),
    }
    script = str(HERE / "expert_parallelism.py")
    result = subprocess.run(
        [*command, script, str(tmp_path), *FAMILIES],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    output = result.stdout + result.stderr[-8000:]
    assert result.returncode == 0, output
    assert result.stdout.count("passed") == 2 * len(FAMILIES), output
