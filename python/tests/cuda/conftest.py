"""What the kernel tests share."""

from __future__ import annotations

from collections.abc import Iterator

import lab
import pytest
import torch


@pytest.fixture
def gpu() -> None:
    if lab.DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture
def guarded() -> Iterator[None]:
    """No kernel of the test writes outside its outputs."""
    yield
    lab.check_guards()
