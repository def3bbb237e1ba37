"""Cases that every rank of a launch runs; `test_parallel.py` launches them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ranks:
    """The ranks of a case.

    Attributes:
        rank: This rank.
        size: The number of ranks.
        folder: An empty folder of the case, which all ranks share.
    """

    rank: int
    size: int
    folder: Path


@dataclass(frozen=True)
class Case:
    """A function with its arguments.

    Attributes:
        name: The name in pytest.
        run: The function.
        arguments: Its keyword arguments.
        sizes: The numbers of ranks that it runs on.
    """

    name: str
    run: Callable[..., None]
    arguments: dict[str, Any]
    sizes: tuple[int, ...]

    def fits(self, size: int) -> bool:
        """Whether the case runs on this number of ranks."""
        return size in self.sizes and size % self.arguments.get("ep_size", 1) == 0


CASES: dict[str, Case] = {}


def case(*, sizes: tuple[int, ...] = (1, 2, 4), **choices: list[Any]) -> Callable[..., Any]:
    """Registers a function, once for each combination of the choices."""

    def register(run: Callable[..., None]) -> Callable[..., None]:
        for values in itertools.product(*choices.values()):
            arguments = dict(zip(choices, values, strict=True))
            label = "-".join(f"{name}={value}" for name, value in arguments.items())
            name = f"{run.__name__}[{label}]" if label else run.__name__
            assert name not in CASES
            CASES[name] = Case(name, run, arguments, sizes)
        return run

    return register
