"""The cores that this process may use, if a launcher started several on its host."""

from __future__ import annotations

import os

# Variables that launchers set to the number of their processes on this host (Open MPI; MPICH and
# its derivatives; torchrun).
HOST_SIZES = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "LOCAL_WORLD_SIZE")


def number_from_environment(*names: str) -> int:
    """Returns the first of these variables that is set to a number, or 0."""
    values = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in values if value.isdecimal()), 0)


def core_share() -> int:
    """Returns this process's share of the cores, among a launcher's processes on this host.

    A launcher that binds each process to some cores is not bound itself. Its cores (those of
    the parent) are therefore divided, and a process gets no more than it is bound to.

    Returns:
        1 or more; 0 if no launcher announced several processes.
    """
    sharers = number_from_environment(*HOST_SIZES)
    if sharers < 2:
        return 0
    mine = os.sched_getaffinity(0)
    try:
        launchers = os.sched_getaffinity(os.getppid())
    except OSError:  # it has exited
        launchers = mine
    return max(1, min(len(mine), len(launchers | mine) // sharers))
