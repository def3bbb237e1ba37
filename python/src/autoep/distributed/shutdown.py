"""Releasing process groups before the interpreter exits.

A gloo process group has threads, which may release a tensor slightly later than the main thread.
If the interpreter has exited by then, the process aborts ("terminate called without an active
exception"). The threads end with the last reference to their group, and there may be many: in
torch's own tables, communicators, and every `DeviceMesh`, some of them held by sharded parameters,
their deep copies and the caches of torch and transformers.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

# Seconds that the threads of groups held elsewhere get to release their last tensors.
_PATIENCE = 1.0
# How often in a row all of them must be seen waiting.
_AT_REST = 3

_releases: list[Callable[[], None]] = []
_process: int | None = None


def release_at_exit(release: Callable[[], None]) -> None:
    """Registers `release` to run at exit, last registered first, before the threads end.

    Args:
        release: Drops the caller's references to process groups.
    """
    global _process
    if _process is None:
        _process = os.getpid()
        atexit.register(_release)
    _releases.append(release)


def has_failed() -> bool:
    """Whether an uncaught exception is ending the process.

    An exchange may be in progress then, and the threads would wait for it.
    """
    return getattr(sys, "last_value", None) is not None


def _release() -> None:
    """Releases everything; in a forked child nothing, because it belongs to the parent."""
    if _process != os.getpid():
        return
    while _releases:
        _releases.pop()()
    if has_failed():
        return
    if not dist.is_initialized():
        _empty_meshes()
    _wait_for_threads()


def _empty_meshes() -> None:
    """Drops the groups of all meshes; if torch has destroyed the groups, they are useless."""
    gc.collect()
    for found in gc.get_objects():
        if type(found) is DeviceMesh:
            vars(found).get("_pg_registry", {}).clear()


def _wait_for_threads() -> None:
    """Waits briefly while groups that the script has not destroyed are still busy."""
    deadline = time.monotonic() + _PATIENCE
    at_rest = 0
    while at_rest < _AT_REST and time.monotonic() < deadline:
        states = _states_of_workers()
        if not states:
            return
        at_rest = at_rest + 1 if states <= {"S"} else 0
        time.sleep(0.002)


def _states_of_workers() -> set[str]:
    """Returns the kernel's state letters of gloo's threads: S for those that wait."""
    states = set()
    for task in Path("/proc/self/task").glob("*/stat"):
        try:
            name, _, rest = task.read_text().partition("(")[2].rpartition(")")
        except OSError:  # the thread has just ended
            continue
        if "gloo_runloop" in name:
            states.add(rest.split()[0])
    return states
