"""Options and fixtures of all tests; what else they share is in support/."""

from __future__ import annotations

import pytest
import torch
from support.watched_engine import WatchedEngine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-families", action="store_true", help="write docs/families.md as it is found"
    )
    parser.addoption(
        "--matrix",
        action="store_true",
        help="run every combination of arguments on four ranks too, not every pair of values",
    )


@pytest.fixture(params=[torch.float64, torch.float32], ids=["f64", "f32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(20240917)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> WatchedEngine:
    """The engine, with a record of the calls of layers."""
    engine = WatchedEngine()
    monkeypatch.setattr("autoep.functional._experts.engine", engine)
    return engine
