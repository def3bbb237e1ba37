"""Launches that run cases on every rank, and their outcomes."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from support.cases import CASES
from support.covers import cover
from support.launches import launch

RUN_CASES = Path(__file__).parents[1] / "parallel" / "run_cases.py"
# The largest number of launches: a fresh one follows each that a case left unusable.
MAX_LAUNCHES = 4
TIMEOUT = 400.0


class Launcher(NamedTuple):
    """A way to start ranks, and the cases that it runs.

    Attributes:
        command: The command before the script.
        size: The number of ranks.
        modules: The modules whose cases they run.
        strength: The number of a case's arguments of which every combination of values runs.
            None, or --matrix, runs every combination of all arguments.
        on_gpus: Whether the ranks see the GPUs.
    """

    command: list[str]
    size: int
    modules: tuple[str, ...]
    strength: int | None = None
    on_gpus: bool = False

    def cases(self, matrix: bool = False) -> list[str]:
        """Returns the names of the cases that it runs, in order; with `matrix`, of all of them."""
        ours = [
            case
            for case in CASES.values()
            if case.fits(self.size) and case.run.__module__ in self.modules
        ]
        if matrix or self.strength is None:
            return [case.name for case in ours]
        chosen = []
        for _, of_one in itertools.groupby(ours, key=lambda case: case.run):
            chosen += cover({case.name: case.arguments for case in of_one}, self.strength)
        return chosen


class Launched(NamedTuple):
    """A launch that has ended.

    Attributes:
        begun: The cases that a rank began, in order.
        reports: Per case, the report of each rank that ended it: None for a pass.
        output: The end of the launch's output.
        returncode: The exit status.
        threads: The names of the threads of each rank at its orderly end.
    """

    begun: list[str]
    reports: dict[str, list[str | None]]
    output: str
    returncode: int
    threads: list[list[str]]

    @property
    def has_failures(self) -> bool:
        """Whether a rank reported a failure, which may end the launch."""
        return any(said is not None for reports in self.reports.values() for said in reports)


class Outcomes(NamedTuple):
    """The outcomes of cases.

    Attributes:
        size: The number of ranks.
        launches: The launches that ran them.
    """

    size: int
    launches: list[Launched]

    def check(self, name: str) -> None:
        """Fails unless every rank has passed the case."""
        reports = [said for one in self.launches for said in one.reports.get(name, [])]
        failures = [said for said in reports if said is not None]
        assert not failures, "\n".join(failures)
        output = next((one.output for one in self.launches if name in one.begun), "")
        output = output or self.launches[-1].output
        assert len(reports) == self.size, f"{len(reports)} of {self.size} ranks ran it\n{output}"


def run_cases(launcher: Launcher, names: list[str], folder: Path) -> Outcomes:
    """Runs cases; if one leaves its launch unusable, a fresh launch runs the rest."""
    launches: list[Launched] = []
    left = names
    while left and len(launches) < MAX_LAUNCHES:
        here = folder / f"launch{len(launches)}"
        here.mkdir()
        (here / "cases.json").write_text(json.dumps(left))
        launches.append(_launch(launcher, here))
        if not launches[-1].begun:  # another launch would fail too
            break
        left = left[left.index(launches[-1].begun[-1]) + 1 :]
    return Outcomes(launcher.size, launches)


def _launch(launcher: Launcher, folder: Path) -> Launched:
    arguments = (str(folder), *launcher.modules)
    try:
        result = launch(
            launcher.command, RUN_CASES, *arguments, timeout=TIMEOUT, on_gpus=launcher.on_gpus
        )
        returncode = result.returncode
        output = f"{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
    except subprocess.TimeoutExpired as expired:
        returncode, output = -1, str(expired)
    begun: dict[str, None] = {}
    reports: dict[str, list[str | None]] = {}
    for lines in sorted(folder.glob("rank*.jsonl")):
        for entry in map(json.loads, lines.read_text().splitlines()):
            begun[entry["case"]] = None
            if "failure" in entry:
                reports.setdefault(entry["case"], []).append(entry["failure"])
    order = [name for name in CASES if name in begun]
    threads = [json.loads(file.read_text()) for file in folder.glob("threads*.json")]
    return Launched(order, reports, output, returncode, threads)


def chosen_cases(items: Iterable[pytest.Item], launcher: str) -> list[str]:
    """Returns the cases that pytest selected, from the tests with `launcher` and `name`."""
    parameters = [item.callspec.params for item in items if hasattr(item, "callspec")]
    asked = {p["name"] for p in parameters if p.get("launcher") == launcher and "name" in p}
    return [name for name in CASES if name in asked]


def outcomes_of(
    launchers: dict[str, Launcher],
    items: list[pytest.Item],
    temporary: pytest.TempPathFactory,
) -> Callable[[str], Outcomes]:
    """Returns a function for the outcomes of a launcher's cases: the selected ones, run once.

    All of its cases run if none is selected, but another test of their launch is.
    """

    @functools.cache
    def outcomes(name: str) -> Outcomes:
        launcher = launchers[name]
        names = chosen_cases(items, name) or launcher.cases()
        return run_cases(launcher, names, temporary.mktemp(name))

    return outcomes


def every_case(launchers: dict[str, Launcher], matrix: bool = False) -> list:
    """Returns the values for `launcher` and `name`; with `matrix`, those of all cases."""
    return [
        pytest.param(launcher, name, id=f"{launcher}-{name}")
        for launcher, how in launchers.items()
        for name in how.cases(matrix)
    ]
