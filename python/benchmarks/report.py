"""The results of a benchmark as lines of a table."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from kernel_times import KernelTime

# A pass of a layer, as built by `turns.py`.
Row = dict[str, Any]

_UNITS = {"cuda": ("TF/s", 1.0), "cpu": ("GF/s", 1e3)}


def rate_text(tflops: float, device: str) -> str:
    """Formats a rate in the unit of its device."""
    unit, factor = _UNITS[device]
    return f"{factor * tflops:5.4g} {unit}"


def ceiling_text(row: Row, device: str) -> str:
    """Formats the ceiling and its range; a wide range means that others used the machine."""
    least, most = row["ceiling_range_tflops"]
    text = f"{row['ceiling']} {rate_text(row['ceiling_tflops'], device)}"
    text += f" ({rate_text(least, device)} to {rate_text(most, device)})"
    return text if row["quiet"] else f"{text}: NOT QUIET, the ratios say little"


def print_rows(rows: list[Row], device: str) -> None:
    """Prints a line per part and layer: the time, rate and shares of each pass."""
    width = max(len(f"{row['part']} {row['layer']}") for row in rows)
    for (part, layer), passes in groupby(rows, lambda row: (row["part"], row["layer"])):
        cells = " | ".join(_cell(row, device) for row in passes)
        print(f"  {f'{part} {layer}':{width}}  {cells}", flush=True)


def _cell(row: Row, device: str) -> str:
    beside = "" if row["of_hf"] is None else f" {row['of_hf']:5.2f}x HF"
    if row["of_balanced"] is not None:
        beside += f" {row['of_balanced']:5.2f} of balanced"
    return (
        f"{row['pass']} {row['ms']:9.3f} ms {rate_text(row['tflops'], device)}"
        f" {row['of_ceiling']:4.0%}{beside}"
    )


def print_ranks(rows: list[Row], device: str) -> None:
    """Prints a line per number of ranks and pass."""
    for row in rows:
        share = row["of_one_rank"]
        against_one = "" if share is None else f" {share:5.2f} of one rank's time"
        print(
            f"  ranks: {row['ranks']}  {row['pass']:16} {row['ms']:9.3f} ms"
            f" {rate_text(row['tflops'], device)}{against_one}",
            flush=True,
        )


def print_memory(rows: list[Row]) -> None:
    """Prints a line per layer."""
    for row in rows:
        share = row["of_hf"]
        against_hf = "" if share is None else f" {share:5.2f} of HF's lower"
        print(f"  {row['layer']:17} {row['bytes'] / 2**20:9.1f} MiB{against_hf}", flush=True)


def print_kernels(kernels: list[KernelTime]) -> None:
    """Prints the kernels of one pass, longest first."""
    total = sum(kernel.milliseconds for kernel in kernels)
    print(f"  kernels of a forward and backward, {total:.3f} ms in all:")
    for kernel in kernels:
        floor = "" if kernel.floor is None else f"floor {kernel.floor:8.3f} ms"
        share = "" if kernel.floor is None else f"{kernel.floor / kernel.milliseconds:5.0%}"
        print(
            f"    {kernel.milliseconds:8.3f} ms x{kernel.launches:<3} {floor:17} {share:5}"
            f" {kernel.name[:70]}"
        )
