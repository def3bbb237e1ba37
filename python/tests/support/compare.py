"""How tensors are compared: by norm, or bit by bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch

TOLERANCES = {torch.float64: 1e-12, torch.float32: 3e-6}


def assert_close(
    actual: Sequence[torch.Tensor | None], expected: Sequence[torch.Tensor | None]
) -> None:
    """Compares tensors by norm; the floor of the denominator follows the largest of them."""
    floor = 1e-6 * max(e.double().norm().item() for e in expected if e is not None)
    for index, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a is None) == (e is None), f"tensor {index}: one of the two is None"
        if a is None or e is None:
            continue
        assert a.shape == e.shape, f"tensor {index}: {a.shape} is not {e.shape}"
        difference = (a.double() - e.double()).norm().item()
        error = difference / max(e.double().norm().item(), floor, 1e-300)
        assert error <= TOLERANCES[a.dtype], f"tensor {index}: error {error:.3g}"


def assert_same_bits(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compares tensors bit by bit."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert actual.contiguous().numpy().tobytes() == expected.contiguous().numpy().tobytes()
