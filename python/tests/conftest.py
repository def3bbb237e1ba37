"""What the tests share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from autoep.comm import Communicator

# Seconds after which a hanging exchange fails a test.
TIMEOUT = 60.0

TOLERANCES = {torch.float64: 1e-12, torch.float32: 3e-6}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-families", action="store_true", help="write docs/families.md as it is found"
    )


def run_ranks(size: int, body: Callable[[Communicator], Any]) -> list[Any]:
    """Runs `body` on `size` local ranks, a thread each; returns what each returned."""
    comms = Communicator.local(size, TIMEOUT)
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = body(comms[rank])
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


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


@pytest.fixture(params=[torch.float64, torch.float32], ids=["f64", "f32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240917)
