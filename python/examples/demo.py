"""Trains a small Mixtral twice, with AutoEP on 2 ranks and in one plain HF process.

Compares the two: losses, speed, memory. Writes a PNG with the loss curves and the expert load.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

TRAIN = Path(__file__).with_name("train_hf.py")
TOLERANCE = 1e-5


def main() -> None:
    """Runs both, prints the comparison, and fails if the losses differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(".demo"), help="folder for the results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    spread = run(args, "autoep", ["--ranks", str(args.ranks)], threads=1)
    plain = run(args, "plain", ["--plain"], threads=args.ranks)
    difference = max(abs(a - b) for a, b in zip(spread["losses"], plain["losses"], strict=True))
    print_comparison(args, spread, plain, difference)
    plot(spread, plain, args.out / "demo.png")
    if difference > TOLERANCE:
        sys.exit(f"The losses differ by {difference:.1e}; expected at most {TOLERANCE:.0e}.")


def run(args: argparse.Namespace, name: str, options: list[str], threads: int) -> dict:
    """Trains once, in separate processes with this many threads each."""
    report = args.out / f"{name}.json"
    command = [sys.executable, str(TRAIN), "--steps", str(args.steps), "--out", str(report)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment["AUTOEP_NUM_THREADS"] = str(threads)
    subprocess.run([*command, *options], env=environment, check=True)
    return json.loads(report.read_text())


def print_comparison(
    args: argparse.Namespace, spread: dict, plain: dict, difference: float
) -> None:
    """Prints both runs side by side."""

    def row(label: str, *cells: str) -> None:
        print(f"{label:<28}" + "".join(f"{cell:>20}" for cell in cells))

    def speed(report: dict) -> str:
        return f"{report['tokens_per_second']:,.0f}"

    def memory(report: dict, key: str) -> str:
        return " + ".join(f"{mib:,.0f}" for mib in report[key])

    print()
    row("", f"AutoEP, {args.ranks} ranks", "plain HF")
    row("threads", f"{args.ranks} x 1", str(args.ranks))
    row("first loss", f"{spread['losses'][0]:.6f}", f"{plain['losses'][0]:.6f}")
    row("last loss", f"{spread['losses'][-1]:.6f}", f"{plain['losses'][-1]:.6f}")
    row("tokens/s", speed(spread), speed(plain))
    for label, key in [
        ("peak memory, MiB", "peak_memory_mib"),
        ("of that for training, MiB", "training_memory_mib"),
    ]:
        row(label, memory(spread, key), memory(plain, key))
    last = spread["expert_load"][-1]
    shares = " ".join(f"{100 * tokens / sum(last):.1f}%" for tokens in last)
    print(f"\nexpert load in the last step: {shares}")
    print(f"largest difference of the losses over {args.steps} steps: {difference:.1e}")


def plot(spread: dict, plain: dict, path: Path) -> None:
    """Draws both loss curves and the share of the tokens per expert."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    load = np.array(spread["expert_load"], dtype=float).T
    figure, (curves, heat) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    curves.plot(plain["losses"], color="black", linewidth=3, alpha=0.35, label="plain HF")
    curves.plot(spread["losses"], color="tab:orange", linewidth=1.2, label="AutoEP")
    curves.set(title="Loss", xlabel="step", ylabel="cross entropy, nats a byte")
    curves.legend()
    image = heat.imshow(load / load.sum(0), aspect="auto", interpolation="nearest")
    heat.set(title="Expert load", xlabel="step", ylabel="expert")
    figure.colorbar(image, label="share of the routed tokens")
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")


if __name__ == "__main__":
    main()
