"""Comparing tensors: by norm, or bit by bit."""

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
    assert torch.equal(_bytes(actual), _bytes(expected))


def assert_all_same_bits(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Compares several tensors bit by bit."""
    for a, e in zip(actual, expected, strict=True):
        assert_same_bits(a, e)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def assert_close_or_equal(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    """Compares each tensor by itself: numbers by norm, integers exactly."""
    for a, e in zip(actual, expected, strict=True):
        if e.is_floating_point():
            assert_close([a], [e])
        else:
            assert torch.equal(a, e)


def assert_as_good(
    ours: list[torch.Tensor], theirs: list[torch.Tensor], exact: list[torch.Tensor]
) -> None:
    """Checks that no tensor is further from float64 than plain torch, plus two roundings."""
    floor = 1e-6 * max(e.norm().item() for e in exact)
    for index, (a, t, e) in enumerate(zip(ours, theirs, exact, strict=True)):
        scale = max(e.norm().item(), floor)
        error, other = ((x.double().cpu() - e).norm().item() / scale for x in (a, t))
        assert error <= max(TOLERANCES[torch.float32], 2 * other), f"tensor {index}: {error:.3g}"
