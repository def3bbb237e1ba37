"""The engine's contexts of this process: its threads, its GPUs, and their counters."""

from __future__ import annotations

import os
import sys
import threading
from typing import NamedTuple

from autoep.core import options
from autoep.core.arrays import Array, on_gpu
from autoep.core.cores import core_share
from autoep.core.native import engine

_CPU = 1  # AUTOEP_DEVICE_CPU
_VARIABLE = "AUTOEP_NUM_THREADS"

# Written once per process, and again by set_num_threads. A forked child creates its own.
_lock = threading.Lock()
_context: engine.Handle | None = None
_process = 0


class Statistics(NamedTuple):
    """Counters of layers since the process began, or since they were reset.

    Attributes:
        forward_calls: Calls of `experts`.
        backward_calls: Backward passes of `experts`.
        rows_sent: This rank's slots that have a row, on any rank.
        rows_sent_remote: The slots among them whose row went to another rank.
        rows_received: Rows of this rank's experts.
        bytes_sent_remote: Row bytes that left this rank, forward and backward.
    """

    forward_calls: int
    backward_calls: int
    rows_sent: int
    rows_sent_remote: int
    rows_received: int
    bytes_sent_remote: int


def context_of(array: Array) -> engine.Handle:
    """Returns the context for an array: the CPU's, or that of its GPU's current stream."""
    if on_gpu(array):
        from autoep.core.cuda_contexts import cuda_context

        return cuda_context(array.device.index)
    return context()


def context() -> engine.Handle:
    """Returns this process's CPU context, created on first use."""
    global _context, _process
    with _lock:
        if _context is None or _process != os.getpid():
            _context = _create(0)
            _process = os.getpid()
        return _context


def _create(num_threads: int) -> engine.Handle:
    """Creates a CPU context; 0 threads means the default, as in `set_num_threads`."""
    if num_threads == 0 and _VARIABLE not in os.environ:
        num_threads = core_share()
    return engine.context_create(_CPU, 0, num_threads, 0, None)


def set_num_threads(count: int) -> None:
    """Sets the number of threads that the engine computes with, and clears the statistics.

    Args:
        count: 1 or more; 0 for the default: `AUTOEP_NUM_THREADS`, else the cores that this
            process may use, divided among the processes that a launcher started on this host.
    """
    global _context, _process
    fresh = _create(options.integer("count", count, 0))
    with _lock:
        _context, _process = fresh, os.getpid()


def _free_lock() -> None:
    """Replaces the lock in a forked child, where the thread that held it may not exist."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_free_lock)


def num_threads() -> int:
    """Returns the number of threads that the engine computes with."""
    return engine.context_num_threads(context())


def statistics() -> Statistics:
    """Returns the counters of all layers."""
    counters = [engine.context_statistics(each) for each in _all_contexts()]
    return Statistics(*map(sum, zip(*counters, strict=True)))


def reset_statistics() -> None:
    """Sets the counters to zero."""
    for each in _all_contexts():
        engine.context_reset_statistics(each)


def _all_contexts() -> list[engine.Handle]:
    """Returns the CPU's context and those of the GPUs in use."""
    cuda = sys.modules.get("autoep.core.cuda_contexts")
    return [context(), *(cuda.cuda_contexts() if cuda else ())]
