"""The results of a run: printed and written as soon as they exist."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import report
import torch
from ceiling import Ceiling
from kernel_times import KernelTime
from layers import HF_LAYERS
from measure import copy_bytes_per_second
from passes import Case
from plot import plot_rates
from report import Row


class Findings:
    """All results of a run, in the form of its JSON file."""

    def __init__(self, options: argparse.Namespace, ceiling: Ceiling) -> None:
        self._device = options.device
        self._folder: Path | None = options.out
        self._found: dict[str, Any] = {"setup": _setup(options, ceiling), "kernels": {}}
        self._found |= {name: [] for name in ("rows", "ranks", "memory", "failed")}
        print("\n".join(f"{name}: {value}" for name, value in self._found["setup"].items()))

    def add_rows(self, case: Case, rows: list[Row]) -> None:
        """Adds the passes of a case; compares those of skewed routing with the balanced ones."""
        for row in rows:
            row["of_balanced"] = self._of_balanced(row)
        self._begin(case, report.ceiling_text(rows[0], self._device))
        report.print_rows(rows, self._device)
        self._found["rows"] += rows
        self._save()

    def add_ranks(self, case: Case, rows: list[Row]) -> None:
        """Adds the passes of a case on several numbers of ranks."""
        self._begin(case, "over ranks")
        report.print_ranks(rows, self._device)
        self._found["ranks"] += rows
        self._save()

    def add_memory(self, case: Case, taken: dict[str, int]) -> None:
        """Adds the bytes of each layer."""
        theirs = [taken[name] for name in HF_LAYERS if name in taken]
        rows = [
            {
                **case.columns(),
                "layer": name,
                "bytes": size,
                "of_hf": size / min(theirs) if theirs else None,
            }
            for name, size in taken.items()
        ]
        self._begin(case, "peak memory of forward and backward")
        report.print_memory(rows)
        self._found["memory"] += rows
        self._save()

    def add_kernels(self, case: Case, kernels: list[KernelTime]) -> None:
        """Adds the kernels of a pass on a GPU."""
        report.print_kernels(kernels)
        self._found["kernels"][case.name] = [vars(kernel) for kernel in kernels]
        self._save()

    def add_first_calls(self, seconds: dict[str, float]) -> None:
        """Adds the seconds that the first passes of a process take."""
        print(", ".join(f"first call {state}: {seconds[state]:.2f} s" for state in seconds))
        self._found["first_call_seconds"] = seconds

    def add_failure(self, layer: str, error: str) -> None:
        """Adds a layer that is left out."""
        print(f"  {layer} is left out: {error}", flush=True)
        self._found["failed"].append({"layer": layer, "error": error})

    def _of_balanced(self, row: Row) -> float | None:
        """Returns the time relative to balanced routing; None if that was not measured."""
        if row["routing"] == "balanced":
            return None
        same = ("part", "layer", "pass", "shape", "experts", "tokens", "dtype")
        balanced = [
            other["ms"]
            for other in self._found["rows"]
            if other["routing"] == "balanced" and all(other[key] == row[key] for key in same)
        ]
        return row["ms"] / balanced[-1] if balanced else None

    def _begin(self, case: Case, what: str) -> None:
        print(f"{case.name}; {what}:", flush=True)

    def _save(self) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "bench_layer.json").write_text(json.dumps(self._found, indent=1) + "\n")
        if self._found["rows"]:
            plot_rates(self._found["rows"], self._folder / "bench_layer.png")


def _setup(options: argparse.Namespace, ceiling: Ceiling) -> dict[str, Any]:
    """Returns the subject and the conditions of the measurements."""
    import transformers

    gpu = options.device == "cuda"
    rates = {
        f"{ceiling.name} in {dtype}": f"{ceiling.tflops(dtype):.4g} TF/s"
        for dtype in options.dtypes
    }
    return {
        "device": torch.cuda.get_device_name() if gpu else _processor(),
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **rates,
        "a copy": f"{copy_bytes_per_second(options.device) / 1e9:.4g} GB/s",
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
