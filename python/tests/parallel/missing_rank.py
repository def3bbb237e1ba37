"""Rank 1 does not come to a step: rank 0 raises at the deadline. `missing_rank.py FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from support import models

import autoep


def main(folder: Path) -> None:
    config = {"expert_parallel": {"autoep_size": 2, "timeout": 2.0}}
    engine, *_ = autoep.initialize(model=models.tiny("mixtral"), config=config)
    batch = models.batch(0)
    engine(**batch)
    written = folder / "error.txt"
    if engine.global_rank == 1:
        while not written.exists():  # until the other has given up on this rank
            time.sleep(0.1)
        return
    try:
        engine(**batch)
    except autoep.DeadlineError as error:
        (folder / "writing").write_text(f"{type(error).__name__}: {error}")
        (folder / "writing").rename(written)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
