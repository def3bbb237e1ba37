"""Plots of layers' rates against the number of tokens, or of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot_rates(rows: list[dict[str, Any]], path: Path) -> None:
    """Draws one panel per part, shape and dtype, with the last pass of each layer.

    Solid lines are balanced, dashed ones skewed; the dotted line is the ceiling.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["pass"] in ("forward+backward", "weight gradient"):
            panels.setdefault((row["part"], row["dtype"], row["shape"]), []).append(row)
    columns = max(1, len({shape for _, _, shape in panels}))
    lines = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=(4.5 * columns, 3.2 * lines), squeeze=False
    )
    colours = {layer: f"C{i}" for i, layer in enumerate(dict.fromkeys(r["layer"] for r in rows))}
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    for panel, ((part, dtype, shape), found) in zip(axes.flat, panels.items(), strict=False):
        _draw(panel, found, colours, "experts" if part == "expert_counts" else "tokens")
        panel.set_title(f"{part}, {shape}, {dtype}, {found[0]['pass']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw(panel: Any, rows: list[dict[str, Any]], colours: dict[str, str], along: str) -> None:
    lines: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in rows:
        point = (row[along], row["tflops"])
        lines.setdefault((row["layer"], row["routing"]), []).append(point)
    for (layer, routing), points in lines.items():
        panel.plot(
            *zip(*sorted(points), strict=True),
            marker=".",
            linestyle="-" if routing == "balanced" else "--",
            color=colours[layer],
            label=layer if routing == rows[0]["routing"] else None,
        )
    ceilings = sorted((row[along], row["ceiling_tflops"]) for row in rows)
    panel.plot(*zip(*ceilings, strict=True), ":", color="black")
    panel.set_xscale("log", base=2)
    panel.set_ylim(bottom=0)
    panel.set_xlabel(along, fontsize=7)
    panel.set_ylabel("TF/s", fontsize=7)
    panel.legend(fontsize=6)
