"""What a benchmark found: a table, a JSON file and a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kernel_times import KernelTime

Row = dict[str, Any]


def print_row(row: Row) -> None:
    """One line of the table."""
    memory = row["peak_extra_bytes"]
    print(
        f"  {row['layer']:17}"
        f" {row['forward_ms']:9.3f} ms {row['forward_tflops']:7.3g} TF/s"
        f" | {row['forward_backward_ms']:9.3f} ms {row['forward_backward_tflops']:7.3g} TF/s"
        f" {row['of_ceiling']:6.1%} of a plain product"
        + ("" if memory is None else f" | {memory / 2**30:6.2f} GiB"),
        flush=True,
    )


def print_kernels(kernels: list[KernelTime]) -> None:
    """The kernels of one pass, the longest first."""
    total = sum(kernel.milliseconds for kernel in kernels)
    print(f"  kernels of a forward and backward, {total:.3f} ms in all:")
    for kernel in kernels:
        floor = "" if kernel.floor is None else f"floor {kernel.floor:8.3f} ms"
        share = "" if kernel.floor is None else f"{kernel.floor / kernel.milliseconds:5.0%}"
        print(
            f"    {kernel.milliseconds:8.3f} ms x{kernel.launches:<3} {floor:17} {share:5}"
            f" {kernel.name[:70]}"
        )


def write(folder: Path, result: dict[str, Any]) -> None:
    """Writes bench_layer.json and bench_layer.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench_layer.json").write_text(json.dumps(result, indent=1) + "\n")
    _plot(result["rows"], folder / "bench_layer.png")


def _plot(rows: list[Row], path: Path) -> None:
    """Forward and backward rates, a group of bars for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = list(dict.fromkeys(_case(row) for row in rows))
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(max(6.0, 1.1 * len(cases)), 4.8))
    width = 0.8 / max(1, len(layers))
    for index, layer in enumerate(layers):
        rates = {
            _case(row): row["forward_backward_tflops"] for row in rows if row["layer"] == layer
        }
        places = [place + index * width for place, case in enumerate(cases) if case in rates]
        axes.bar(places, [rates[case] for case in cases if case in rates], width, label=layer)
    ceilings = {_case(row): row["ceiling_tflops"] for row in rows}
    for place, case in enumerate(cases):
        axes.hlines(ceilings[case], place - width / 2, place + 0.8 - width / 2, "black", "dotted")
    axes.set_xticks(
        [place + 0.4 - width / 2 for place in range(len(cases))],
        cases,
        rotation=35,
        ha="right",
        fontsize=7,
    )
    axes.set_ylabel("TF/s, forward + backward (dotted: a plain product)")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _case(row: Row) -> str:
    return f"{row['shape']}\n{row['tokens']} {row['dtype']} {row['routing']}"
