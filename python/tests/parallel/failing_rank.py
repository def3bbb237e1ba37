"""Rank 1 ends with an exception while rank 0 waits for it in a step, for up to ten minutes."""

from __future__ import annotations

from support import models

import autoep


def main() -> None:
    config = {"expert_parallel": {"autoep_size": 2, "timeout": 600.0}}
    engine, *_ = autoep.initialize(model=models.tiny("mixtral"), config=config)
    if engine.global_rank == 1:
        raise ValueError("this rank has had enough")
    engine(**models.batch(0))


if __name__ == "__main__":
    main()
