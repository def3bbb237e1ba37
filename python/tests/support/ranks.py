"""Ranks that are threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from autoep.distributed.communicator import Communicator

# Seconds after which a hanging exchange fails a test.
TIMEOUT = 60.0


def run_ranks(size: int, body: Callable[[Communicator], Any]) -> list[Any]:
    """Runs `body` on `size` ranks, one thread per rank; returns their results."""
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
