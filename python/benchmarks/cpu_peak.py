"""The ceiling of a processor: the rate at which its cores multiply and add registers."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("cpu_peak.c")


class CPUPeak:
    """Runs the widest multiply-and-add that the processor has, on several threads at once."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._library = _compile()

    def instructions(self, dtype: str) -> str:
        """Returns the name of the instructions that `tflops` uses."""
        return self._library.peak_instructions(dtype == "bf16").decode()

    def tflops(self, dtype: str, seconds: float = 0.02) -> float:
        """Returns the rate of all threads together; a multiply-and-add is two operations."""
        return self._library.peak(dtype == "bf16", self._threads, seconds) / 1e12


def has_cpu_peak() -> bool:
    """Whether the loops exist for this processor, and it has their instructions."""
    return platform.machine() == "x86_64" and _compile().peak_instructions(0) is not None


def _compile() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cpu_peak.so")
        command = ["cc", "-std=gnu11", "-O3", "-shared", "-fPIC", "-pthread", _SOURCE, "-o", path]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(path))
    library.peak.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_double)
    library.peak.restype = ctypes.c_double
    library.peak_instructions.restype = ctypes.c_char_p
    return library
