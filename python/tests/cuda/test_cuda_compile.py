"""Every kernel compiles, without a warning or a spilled register. Needs NVRTC, and no GPU."""

from __future__ import annotations

import re

import kernels
import nvrtc
import pytest

CLEAN = re.compile(r"0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads")


@pytest.fixture(autouse=True)
def compiler() -> None:
    try:
        nvrtc.library()
    except nvrtc.MissingCompilerError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("name", kernels.FILES)
def test_kernel_compiles_cleanly(name: str, architecture: str) -> None:
    file = kernels.FILES[name]
    for defines in file.every_choice():
        _, log = nvrtc.compile_source(file.parts, defines, architecture)
        for line in log.splitlines():
            is_note = "ptxas info" in line or not line.strip("\0 ")
            assert is_note or CLEAN.search(line), f"{name} with {defines}: {line}"


def test_a_spill_is_seen(tmp_path, monkeypatch) -> None:
    """What the test above looks for is what the assembler says."""
    source = """extern "C" __global__ void __launch_bounds__(1024, 2) spills(float* x) {
      float values[256];
      for (int i = 0; i < 256; i++) values[i] = x[i * threadIdx.x];
      __syncthreads();
      for (int i = 0; i < 256; i++) x[i] = values[i] * values[255 - i];
    }"""
    (tmp_path / "spills.cu").write_text(source)
    monkeypatch.setattr(nvrtc, "KERNELS", tmp_path)
    _, log = nvrtc.compile_source(("spills.cu",), (), "sm_90a")
    frames = [line for line in log.splitlines() if "stack frame" in line]
    assert len(frames) == 1
    assert not CLEAN.search(frames[0])
