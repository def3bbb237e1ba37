"""bfloat16 against float64: no further away than PyTorch's own bfloat16 path."""

from __future__ import annotations

import pytest
from support.bf16_accuracy import MARGIN, median_ratios


@pytest.mark.parametrize("peer", ["eager", "grouped_mm"])
def test_errors_are_no_larger_than_those_of_torch(peer: str) -> None:
    medians = median_ratios(peer, "cpu")
    print(f"\nerror against float64, over {peer}'s:", medians)
    assert max(medians.values()) <= MARGIN, medians
