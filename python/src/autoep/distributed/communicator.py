"""Communicators: groups of ranks, and the transport between them."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import sys
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from autoep.core.native import MPI_LIBRARY, engine
from autoep.core.options import Dispatch, counts, integer, real
from autoep.errors import (
    Error,
    InvalidArgumentError,
    InvalidHandleError,
    MissingLibraryError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Seconds that an exchange waits for a rank before it raises.
DEFAULT_TIMEOUT = 600.0


class Communicator:
    """A group of ranks, of which this process (or thread) is one.

    All ranks make the same collective calls in the same order. A call that waits longer than the
    communicator's timeout raises `DeadlineError`, which names the ranks that did not join.

    Attributes:
        rank: This rank, from 0.
        size: The number of ranks.
        key: The number of the communicator in this process, from 1; compiled graphs contain it.
        dispatch: What the layers of these ranks send: "slots", a row for each expert of a token, so
            that results have the same bits for every number of ranks; or "tokens", a token once to
            each rank that has one of its experts, which moves fewer bytes and rounds each rank's
            sum. Set it before the first layer, to the same value on all ranks.
        layers: The layers that `autoep.functional` caches for these ranks; None before the first.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.rank, self.size = engine.comm_rank(handle)
        self.key = next(_keys)
        self.dispatch: Dispatch = "slots"
        self.layers: Any = None
        _by_key[self.key] = self

    @classmethod
    def alone(cls) -> Communicator:
        """Returns a communicator of this rank only."""
        return cls(engine.comm_create_self())

    @classmethod
    def local(cls, size: int, timeout: float = DEFAULT_TIMEOUT) -> list[Communicator]:
        """Returns the ranks of a group inside this process, one per thread.

        For tests: the ranks share this process's cores.

        Args:
            size: The number of ranks.
            timeout: Seconds.
        """
        seconds = real("timeout", timeout)
        return [cls(handle) for handle in engine.comm_create_local(integer("size", size), seconds)]

    @classmethod
    def mpi(
        cls, ranks: Sequence[int] | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Communicator:
        """Returns a communicator over MPI; collective over its ranks.

        MPI is initialised if it is not yet, and then finalised at the interpreter's exit.

        Args:
            ranks: Ranks of MPI_COMM_WORLD, this one among them; None for all.
            timeout: Seconds.
        """
        if not MPI_LIBRARY.exists():
            raise MissingLibraryError(
                "autoep was installed without MPI, because mpi.h was not found; install an MPI"
                " with its development files (Debian: libopenmpi-dev) and install autoep again"
            )
        world = None if ranks is None else counts("ranks", ranks)
        comm = cls(engine.comm_create_mpi(str(MPI_LIBRARY), world, real("timeout", timeout)))
        _finalize_mpi_at_exit(comm)
        return comm

    @staticmethod
    def nccl_unique_id(library: str | None = None) -> bytes:
        """Returns the id by which the ranks of a new NCCL group find each other.

        One rank calls it and sends the bytes to the others, for example through the process
        group's store. Each group needs its own id.

        Args:
            library: The path of libnccl.so.2, for a process that has not loaded it; torch has.
        """
        return engine.nccl_unique_id(library)

    @classmethod
    def nccl(
        cls,
        unique_id: bytes,
        rank: int,
        size: int,
        device: int,
        timeout: float = DEFAULT_TIMEOUT,
        library: str | None = None,
    ) -> Communicator:
        """Returns a communicator over NCCL, one GPU per rank; collective over its ranks.

        Args:
            unique_id: The bytes of `nccl_unique_id`, the same on all ranks.
            rank: This rank.
            size: The number of ranks.
            device: The ordinal of this rank's GPU, which no other rank uses.
            timeout: Seconds.
            library: As for `nccl_unique_id`.
        """
        if not isinstance(unique_id, bytes):
            raise InvalidArgumentError(
                f"unique_id: expected bytes of nccl_unique_id, got {type(unique_id).__name__}"
            )
        ranks = integer("rank", rank), integer("size", size), integer("device", device)
        seconds = real("timeout", timeout)
        return cls(engine.comm_create_nccl(unique_id, *ranks, seconds, library))

    @classmethod
    def push(
        cls, control: Communicator, device: int, timeout: float = DEFAULT_TIMEOUT
    ) -> Communicator:
        """Returns a communicator between GPUs of one host over NVLink; collective over its ranks.

        Rows are copied straight into the memory of the other ranks' GPUs. Raises `UnsupportedError`
        on all ranks if they run on several hosts, or if a GPU does not reach another's memory: use
        `nccl` then.

        Args:
            control: A communicator of the same ranks. It moves host memory, with its own timeout,
                and can be closed: the new communicator keeps what it needs of it.
            device: The ordinal of this rank's GPU, which no other rank uses.
            timeout: Seconds after which a missing rank is an error.
        """
        from autoep.core.cuda_contexts import nvrtc_path

        arguments = handle_of(control), integer("device", device), real("timeout", timeout)
        return cls(engine.comm_create_push(*arguments, nvrtc_path()))

    @classmethod
    def torch(
        cls, process_group: ProcessGroup | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Communicator:
        """Returns a communicator over torch.distributed; needs a backend for CPU tensors (gloo).

        Args:
            process_group: The ranks; None for all.
            timeout: Seconds.
        """
        from autoep.distributed.shutdown import release_at_exit
        from autoep.distributed.torch_transport import TorchTransport

        transport = TorchTransport(process_group)
        seconds = real("timeout", timeout)
        handle = engine.comm_create_callback(transport, transport.rank, transport.size, seconds)
        comm = cls(handle)
        release_at_exit(functools.partial(_close, weakref.ref(comm)))
        return comm

    def barrier(self) -> None:
        """Returns when every rank has entered; collective."""
        engine.barrier(self.handle)

    def abort(self, reason: str | None = None) -> None:
        """Marks the group as failed on this rank: every later exchange raises at once.

        The other ranks of a group inside this process fail too; ranks of other processes raise at
        their deadline. May be called while another thread is in an exchange.

        Args:
            reason: The text of the errors that follow.
        """
        engine.comm_abort(self.handle, reason)

    def health(self) -> Error | None:
        """Returns the failure that made the group unusable, or None.

        Never waits. The error's `step` and `ranks` name its origin.
        """
        return engine.comm_health(self.handle)

    def __copy__(self) -> Communicator:
        """Returns itself: a copy of a module exchanges rows between the same ranks."""
        return self

    def __deepcopy__(self, copied: Any) -> Communicator:
        """Returns itself, as `__copy__` does."""
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise UnsupportedError(
            "pickle, torch.save: a Communicator cannot be pickled, since its ranks are those of"
            " this run. Save the tensors alone, such as model.state_dict()."
        )

    def close(self) -> None:
        """Frees the communicator now rather than with the last reference to it."""
        if self.layers is not None:
            self.layers.close()
        self.handle.close()


def _close(reference: weakref.ref[Communicator]) -> None:
    """Closes a communicator if it still exists, which releases its process group."""
    comm = reference()
    if comm is not None:
        comm.close()


# All existing communicators, by number.
_keys = itertools.count(1)
_by_key: weakref.WeakValueDictionary[int, Communicator] = weakref.WeakValueDictionary()


def communicator_of(key: int) -> Communicator | None:
    """Returns a communicator by number; None for 0, which means a single rank."""
    if key == 0:
        return None
    comm = _by_key.get(key)
    if comm is None:
        raise InvalidHandleError(f"the communicator of a compiled graph, number {key}, is gone")
    return comm


def handle_of(comm: Communicator) -> Any:
    """Returns the engine's handle; raises if `comm` is not a Communicator."""
    if isinstance(comm, Communicator):
        return comm.handle
    raise InvalidArgumentError(f"comm: expected a Communicator, got {type(comm).__name__}")


# The communicators to free before MPI is finalised; None while MPI is unused.
_over_mpi: weakref.WeakSet[Communicator] | None = None


def _finalize_mpi_at_exit(comm: Communicator) -> None:
    global _over_mpi
    if _over_mpi is None:
        _over_mpi = weakref.WeakSet()
        atexit.register(_finalize_mpi, _over_mpi, os.getpid())
    _over_mpi.add(comm)


def _finalize_mpi(communicators: weakref.WeakSet[Communicator], process: int) -> None:
    """Finalises MPI in the process that initialised it, not in a forked child.

    Does nothing after an uncaught exception: MPI_Finalize waits for all ranks, which wait for this
    one; without it the launcher sees the failure and ends them.
    """
    if process != os.getpid() or getattr(sys, "last_value", None) is not None:
        return
    for comm in list(communicators):
        comm.close()
    engine.mpi_finalize()
