"""The cores that this process may compute on, where a launcher started several on its host."""

from __future__ import annotations

import os

# What launchers tell their processes: the number of them on this host (Open MPI; MPICH and those
# that derive from it; torchrun).
HOST_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE")


def number_from_environment(*names: str) -> int:
    """Returns the first of these variables that is set to a number, or 0."""
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), 0)


def core_share() -> int:
    """Returns this process's part of the cores that a launcher's processes on this host share.

    A process that its launcher has bound to some cores has those alone: the launcher itself, the
    parent, is not bound to them.

    Returns:
        1 or more; 0 where no launcher has said that there are several.
    """
    sharers = number_from_environment(*HOST_SIZES)
    if sharers < 2:
        return 0
    mine = os.sched_getaffinity(0)
    try:
        launchers = os.sched_getaffinity(os.getppid())
    except OSError:  # it has gone
        launchers = mine
    return max(1, min(len(mine), len(launchers | mine) // sharers))
