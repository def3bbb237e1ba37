"""Runs cases of modules on one rank: `run_cases.py FOLDER MODULE...`.

The names of the cases are in the folder's cases.json. Each rank writes what became of them, and the
seconds that they took, into the folder. After each case the ranks hear of each other how it went,
through files: after a failure their group may be out of step, and nothing can be said through it.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from support.cases import CASES, Ranks

from autoep.distributed.launch import World, join_world

TIMEOUT = 60.0
# Ranks that have not ended a case so many seconds after another rank failed in it are taken to wait
# for that rank in an exchange.
PATIENCE = 5.0


def main(folder: Path, modules: list[str]) -> None:
    torch.set_num_threads(1)
    # What is registered first runs last.
    atexit.register(report_threads, folder)
    for module in modules:
        importlib.import_module(module)
    world = join_world(TIMEOUT)
    votes = Votes(folder, world)
    with (folder / f"rank{world.rank}.jsonl").open("w") as results:
        for index, name in enumerate(json.loads((folder / "cases.json").read_text())):
            case = CASES[name]
            ranks = Ranks(world.rank, world.size, folder / f"case{index}")
            ranks.folder.mkdir(exist_ok=True)
            report(results, case=name)
            failure = None
            begun = time.monotonic()
            try:
                case.run(ranks, **case.arguments)
            except BaseException:
                failure = traceback.format_exc()
            seconds = round(time.monotonic() - begun, 2)
            report(results, case=name, failure=failure, seconds=seconds)
            if not votes.all_yes(failure is None) and not is_usable(world, votes):
                # Others may wait in an exchange, and an orderly end would wait for them.
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)


class Votes:
    """The ranks say yes or no in turns, a letter each, each in its own file."""

    def __init__(self, folder: Path, world: World) -> None:
        self._files = [folder / f"votes{rank}" for rank in range(world.size)]
        self._mine = self._files[world.rank].open("ab", buffering=0)
        self._turn = 0

    def all_yes(self, yes: bool) -> bool:
        """Votes, and waits for the others: whether all say yes.

        Once one has said no, the others have a while to say something.
        """
        self._mine.write(b"y" if yes else b"n")
        self._turn += 1
        deadline = None
        while len(votes := self._cast()) < len(self._files):
            if b"n" in votes:
                deadline = deadline or time.monotonic() + PATIENCE
                if time.monotonic() > deadline:
                    return False
            time.sleep(0.002)
        return b"n" not in votes

    def all_have_voted(self) -> bool:
        """Whether every rank has voted in this turn."""
        return len(self._cast()) == len(self._files)

    def _cast(self) -> list[bytes]:
        """The votes of this turn so far."""
        texts = (file.read_bytes() if file.exists() else b"" for file in self._files)
        return [text[self._turn - 1 : self._turn] for text in texts if len(text) >= self._turn]


def is_usable(world: World, votes: Votes) -> bool:
    """Whether the group can be used after a case that failed; all ranks come to the same."""
    if not votes.all_have_voted():
        return False
    works = True
    if world.size > 1:
        found = [torch.empty(1) for _ in range(world.size)]
        try:
            work = dist.all_gather(found, torch.tensor([float(world.rank)]), async_op=True)
            work.wait(timedelta(seconds=PATIENCE))
            works = [int(rank) for rank in found] == list(range(world.size))
        except RuntimeError:
            works = False
    return votes.all_yes(works)


def report(results: TextIO, **entry: str | float | None) -> None:
    results.write(json.dumps(entry) + "\n")
    results.flush()


def report_threads(folder: Path) -> None:
    """Writes the names of the threads that there are when the interpreter goes."""
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    (folder / f"threads{os.getpid()}.json").write_text(json.dumps(threads))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
