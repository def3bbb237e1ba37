"""The benchmarks run, and compute what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import bench_layer
from layers import build, router_weight
from shapes import CPU_SHAPES, CUDA_SHAPES, Shape, skew, tokens_of


@pytest.mark.parametrize("shape", [*CPU_SHAPES, *CUDA_SHAPES], ids=lambda shape: shape.name)
def test_skewed_means_half_of_the_copies_on_an_eighth_of_the_experts(shape: Shape) -> None:
    x_TH = tokens_of(shape, 512, torch.float32, "cpu")[0].detach()
    router_EH = 0.02 * torch.randn(shape.experts, shape.hidden)
    share = {}
    for skewed in (False, True):
        skew(router_EH, shape, skewed)
        chosen = (x_TH @ router_EH.T).topk(shape.top_k).indices
        share[skewed] = (chosen < shape.experts // 8).float().mean().item()
    assert share[False] == pytest.approx(1 / 8, abs=0.03)
    assert share[True] == pytest.approx(1 / 2, abs=0.03)


def test_the_layers_compute_the_same() -> None:
    shape = Shape("tiny", 32, 24, 8, 2, (16,))
    x = tokens_of(shape, 16, torch.float32, "cpu")
    results = []
    for name in ("autoep", "autoep_hf_block", "hf_grouped_mm", "hf_eager"):
        layer = build(name, shape, torch.float32, "cpu")
        skew(router_weight(layer, shape), shape, True)
        results.append((name, layer(x).detach()))
    for name, y in results[1:]:
        torch.testing.assert_close(y, results[0][1], msg=name)


def test_a_run_leaves_a_table_a_file_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--device cpu --shapes small --tokens 8 --rounds 1 --calls 1 --peers hf_eager"
    bench_layer.main([*arguments.split(), "--out", str(tmp_path)])
    told = capsys.readouterr().out
    rows = json.loads((tmp_path / "bench_layer.json").read_text())["rows"]
    assert [(row["layer"], row["dtype"]) for row in rows] == [
        (layer, dtype) for dtype in ("f32", "bf16") for layer in ("autoep", "hf_eager")
    ]
    for row in rows:
        assert min(row["forward_ms"], row["forward_backward_ms"]) > 0
        assert f"{row['forward_backward_ms']:.3f} ms" in told
    assert (tmp_path / "bench_layer.png").stat().st_size > 1000


def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_layer.parse(["--device", "cpu", "--shapes", "large"])
    assert "--shapes: large; known: small, olmoe_1b_7b" in capsys.readouterr().err
