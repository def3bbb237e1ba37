"""Layers in bf16 whose experts have rows around the sizes of Hopper's tiles and their groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.cuda.local_experts import (
    Data,
    Layer,
    Run,
    assert_same_bits,
    bits,
    both_with_dropped_choices,
    context_of,
    error,
    expected,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

# Tiles have 128 rows, two are a pair, eight pairs a group; rows are copied 4096 ahead.
COUNTS = {
    "around tiles": [0, 1, 63, 64, 65, 127, 128, 129, 192, 193, 255, 256, 257, 0],
    "around pairs": [256 * 3, 256 * 3 + 1, 256 * 3 + 128, 256 * 3 + 129, 256 * 8, 256 * 8 + 5],
    "only odd tiles": [100] * 19,
    "no odd tiles": [512, 256, 1024, 768],
    "one expert": [0, 0, 3000, 0],
    "far ahead": [5000, 130, 4500, 0, 3000],
}
# H and F: one column of tiles, and more; above a depth of 2048 odd tiles come last.
WIDTHS = [(128, 64), (264, 392), (768, 520), (2304, 136)]


def data_of(counts: list[int], widths: tuple[int, int], layout: str, seed: int = 0) -> Data:
    """A layer with so many rows of each expert."""
    sizes = (sum(counts), 1, len(counts), *widths)
    data = Data(Layer(sizes=sizes, dtype=torch.bfloat16, layout=layout), seed)
    idx = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = torch.randperm(len(idx), generator=torch.Generator().manual_seed(seed))
    data.topk_idx = idx[order][:, None].cuda()
    return data


@pytest.fixture(scope="module")
def context() -> Any:
    return context_of(torch.cuda.current_stream())


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("name", COUNTS)
def test_rows_around_the_sizes_of_tiles(
    context: Any, name: str, widths: tuple[int, int], layout: str
) -> None:
    data = data_of(COUNTS[name], widths, layout)
    run = Run(context, data)
    results = run.both()
    for index, (a, w) in enumerate(zip(results, expected(data, torch.float64), strict=True)):
        assert error(a, w) <= torch.finfo(torch.bfloat16).eps, f"tensor {index}"
    first = bits(results)
    # On what the forward has left, and from the beginning.
    run.backward()
    assert_same_bits(bits(run.results()), first)
    assert_same_bits(bits(Run(context, data).both()), first)


def test_dropped_choices_among_experts_of_several_tiles(context: Any) -> None:
    layer = Layer(sizes=(900, 4, 5, 264, 392), dtype=torch.bfloat16, choice="dropped")
    data = Data(layer)
    results = both_with_dropped_choices(Run(context, data))
    for index, (a, w) in enumerate(zip(results, expected(data, torch.float64), strict=True)):
        assert error(a, w) <= torch.finfo(torch.bfloat16).eps, f"tensor {index}"


@pytest.mark.parametrize("layout", ["out_in", "in_out"])
def test_gradients_of_several_tiles_are_added_in_f32(context: Any, layout: str) -> None:
    layer = Layer(sizes=(900, 4, 5, 264, 392), dtype=torch.bfloat16, layout=layout)
    data = Data(layer)
    run = Run(context, data)
    run.gradients = run.gradients_of(torch.float32)
    before = [torch.randn_like(gradient) for gradient in run.gradients if gradient is not None]
    for gradient, value in zip(run.gradients[::2], before, strict=True):
        gradient.copy_(value)
    run.forward()
    run.backward(accumulate=True)
    added = [g - b for g, b in zip(run.results()[3:], before, strict=True)]
    for index, (a, w) in enumerate(zip(added, expected(data, torch.float64)[3:], strict=True)):
        assert error(a, w) <= torch.finfo(torch.bfloat16).eps, f"gradient {index}"


def test_layers_at_once_on_several_streams() -> None:
    """Blocks wait for rows that others of their launch copy; another's hold processors."""
    datas = [data_of(COUNTS["far ahead"], (768, 520), "out_in", seed) for seed in range(3)]
    torch.cuda.synchronize()
    wanted = [bits(Run(context_of(torch.cuda.default_stream()), data).both()) for data in datas]
    streams = [torch.cuda.Stream(priority=-(i % 2)) for i in range(3)]
    runs = [Run(context_of(s), data) for s, data in zip(streams, datas, strict=True)]
    torch.cuda.synchronize()
    for _ in range(20):
        for run in runs:
            run.forward()
            run.backward()
    torch.cuda.synchronize()
    for run, bits_wanted in zip(runs, wanted, strict=True):
        assert_same_bits(bits(run.results()), bits_wanted)
