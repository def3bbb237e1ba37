"""Letting go of process groups before the interpreter ends.

A process group of gloo has threads, and these may let go of a tensor a little later than the main
thread does. If the interpreter has gone by then, that aborts the process ("terminate called
without an active exception"). The threads end with the last reference to their group, and there
may be many: torch's own tables, communicators, and every `DeviceMesh`, of which sharded
parameters, their deep copies and the caches of torch and transformers hold some.
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

# Seconds that the threads of groups which others keep get to put their last tensors down.
_PATIENCE = 1.0
# How often in a row all of them must be seen at rest.
_AT_REST = 3

_releases: list[Callable[[], None]] = []
_process: int | None = None


def let_go_at_exit(release: Callable[[], None]) -> None:
    """Calls `release` when the interpreter ends, the last one first, and then ends the threads.

    Args:
        release: Gives up what the caller holds of process groups.
    """
    global _process
    if _process is None:
        _process = os.getpid()
        atexit.register(_let_go)
    _releases.append(release)


def has_failed() -> bool:
    """Whether an exception that nobody caught ends the process.

    An exchange may be under way then, which the threads would wait for.
    """
    return getattr(sys, "last_value", None) is not None


def _let_go() -> None:
    """Lets go of everything; in a forked child of nothing, as it is the parent's."""
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
    """Takes their groups from all meshes; where torch has ended the groups, these are of no use."""
    gc.collect()
    for found in gc.get_objects():
        if type(found) is DeviceMesh:
            vars(found).get("_pg_registry", {}).clear()


def _wait_for_threads() -> None:
    """Waits a little, while groups that a script has not ended still do something."""
    deadline = time.monotonic() + _PATIENCE
    at_rest = 0
    while at_rest < _AT_REST and time.monotonic() < deadline:
        states = _states_of_workers()
        if not states:
            return
        at_rest = at_rest + 1 if states <= {"S"} else 0
        time.sleep(0.002)


def _states_of_workers() -> set[str]:
    """The kernel's letters for what the threads of gloo groups do: S for those that wait."""
    states = set()
    for task in Path("/proc/self/task").glob("*/stat"):
        try:
            name, _, rest = task.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it has just ended
            continue
        if "gloo_runloop" in name:
            states.add(rest.split()[0])
    return states
