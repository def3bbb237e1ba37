"""Runs the cases of modules on one rank: `run_cases.py FOLDER MODULE...`.

Each rank writes what became of them into the folder.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import traceback
from pathlib import Path

import cases_checkpoints  # noqa: F401
import cases_engine  # noqa: F401
import cases_lora  # noqa: F401
import cases_parity  # noqa: F401
import cases_routing  # noqa: F401
import cases_script  # noqa: F401
import torch
from registry import CASES, Ranks

from autoep.launch import join_world

TIMEOUT = 60.0


def main(folder: Path, modules: list[str]) -> None:
    torch.set_num_threads(1)
    # What is registered first runs last.
    atexit.register(report_threads, folder)
    world = join_world(TIMEOUT)
    with (folder / f"rank{world.rank}.jsonl").open("w") as results:
        for index, case in enumerate(CASES.values()):
            if not case.fits(world.size) or case.run.__module__ not in modules:
                continue
            ranks = Ranks(world.rank, world.size, folder / f"case{index}")
            ranks.folder.mkdir(exist_ok=True)
            try:
                case.run(ranks, **case.arguments)
            except BaseException:
                report(results, case.name, traceback.format_exc())
                raise  # the other ranks may be waiting in an exchange: end them
            report(results, case.name, None)


def report(results, name: str, failure: str | None) -> None:
    results.write(json.dumps({"case": name, "failure": failure}) + "\n")
    results.flush()


def report_threads(folder: Path) -> None:
    """Writes the names of the threads that there are when the interpreter goes."""
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    (folder / f"threads{os.getpid()}.json").write_text(json.dumps(threads))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
