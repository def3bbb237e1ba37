"""The benchmarks run, and compute what they say."""

from __future__ import annotations

import json
from pathlib import Path

import bench_layer
import pytest
import torch
import versions
from cpu_peak import CPUPeak, has_cpu_peak
from layers import build, router_weight
from measure import product_tflops
from passes import Case
from products import product_passes
from shapes import CPU_SHAPES, CUDA_SHAPES, DTYPES, Shape, skew, tokens_of

from autoep import functional


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


@pytest.mark.parametrize("skewed", [False, True])
def test_the_layers_compute_the_same(skewed: bool) -> None:
    shape = Shape("tiny", 32, 24, 16, 2, (16,))
    results = {}
    for name in ("autoep", "autoep_hf_block", "hf_grouped_mm", "hf_eager", "openblas"):
        layer = build(name, shape, torch.float32, "cpu")
        skew(router_weight(layer, shape), shape, skewed)
        x = tokens_of(shape, 16, torch.float32, "cpu")
        y = layer(x)
        results[name] = (y.detach(), *torch.autograd.grad(y.sum(), [x, *layer.parameters()]))
    for name, result in results.items():
        for got, wanted in zip(result, results["hf_eager"], strict=True):
            torch.testing.assert_close(got, wanted, msg=name)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_products_compute_the_same(dtype: str) -> None:
    shape = Shape("tiny", 32, 24, 4, 2, (16,))
    layer = build("autoep", shape, DTYPES[dtype], "cpu")
    # The third expert gets no row.
    topk_idx = torch.tensor([[0, 1], [1, 3], [1, 0], [3, 1]])
    written: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for each in product_passes(Case(shape, 4, dtype, "balanced"), topk_idx, layer):
        each.call()
        written.setdefault((each.part, each.name), {})[each.layer] = each.call.args[-1].clone()
    assert len(written) == 6
    for form, results in written.items():
        assert len(results) == (3 if dtype == "f32" else 2)
        for name, result in results.items():
            torch.testing.assert_close(result, results["torch_mm"], msg=f"{form} {name}")


@pytest.mark.skipif(not has_cpu_peak(), reason="not this kind of processor")
def test_the_peak_is_a_rate_that_a_product_does_not_exceed() -> None:
    peak = CPUPeak(torch.get_num_threads())
    for dtype in DTYPES:
        product = product_tflops(DTYPES[dtype], "cpu", size=512)
        # Others may use the cores meanwhile.
        assert 1.1 * max(peak.tflops(dtype, 0.002) for _ in range(50)) > product > 0
        assert "AVX" in peak.instructions(dtype)


def test_a_run_leaves_a_table_a_file_and_a_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = "--shapes mixtral_block --tokens 8 --rounds 1 --calls 1 --peers hf_eager"
    arguments += " --dtypes f32 --expert-counts 4 --ranks 2 --threads 1"
    bench_layer.main([*arguments.split(), "--out", str(tmp_path)])
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "bench_layer.json").read_text())
    assert not found["failed"]
    timed = {(row["part"], row["layer"], row["experts"], row["pass"]) for row in found["rows"]}
    assert timed >= {
        (part, layer, experts, name)
        for part, experts in (("layer", 8), ("experts", 8), ("expert_counts", 4))
        for layer in ("autoep", "hf_eager")
        for name in ("forward", "forward+backward")
    }
    assert ("product down", "autoep", 8, "weight gradient") in timed
    for row in found["rows"]:
        assert (row["of_balanced"] is None) == (row["routing"] == "balanced")
    for row in found["rows"] + found["ranks"]:
        assert row["ms"] > 0
        assert f"{row['ms']:.3f} ms" in told
    assert [row["ranks"] for row in found["ranks"]] == [2, 2]
    # The gradients of the weights alone are 6 MiB.
    assert [row["layer"] for row in found["memory"]] == ["autoep", "hf_eager"]
    assert all(6 * 2**20 < row["bytes"] < 600 * 2**20 for row in found["memory"])
    assert (tmp_path / "bench_layer.png").stat().st_size > 1000


def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, wanted in (
        ("--shapes large", "--shapes: large; known: mixtral_block, olmoe_like, qwen3_like"),
        ("--parts layer all", "--parts: all; known: layer, experts, products"),
    ):
        with pytest.raises(SystemExit):
            bench_layer.main(arguments.split())
        assert wanted in capsys.readouterr().err


def test_versions_take_turns(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(Path(functional.__file__).parents[2])
    versions.main(
        [folder, folder, *"--cases mixtral_block:8:skewed --dtype f32 --rounds 2 --calls 1".split()]
    )
    told = capsys.readouterr().out
    assert told.startswith("mixtral_block:8:skewed single: ")
    assert told.count(" ms ") == 2


def test_versions_that_are_not_there_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="expected a folder that holds a package autoep"):
        versions.main([str(tmp_path), "--cases", "mixtral_block:8"])
    with pytest.raises(SystemExit):
        versions.main([str(tmp_path), "--cases", "mixtral_block"])
    assert "mixtral_block: expected SHAPE:TOKENS or" in capsys.readouterr().err
