"""Options and fixtures of all tests; what else they share is in support/."""

from __future__ import annotations

import pytest
import torch
from support.plain_gpu import gpu

__all__ = ["gpu"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-families", action="store_true", help="write docs/families.md as it is found"
    )


@pytest.fixture(params=[torch.float64, torch.float32], ids=["f64", "f32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240917)
