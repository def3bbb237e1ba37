"""The C extension, or the error that says why it cannot be loaded."""

from __future__ import annotations

from pathlib import Path

from autoep.errors import MissingLibraryError

try:
    from autoep import _engine as engine
except ImportError as error:
    raise MissingLibraryError(
        f"the engine of autoep cannot be loaded ({error}); install the package again with"
        " `pip install ./python` from a checkout of AutoEP"
    ) from error

MPI_LIBRARY = Path(__file__).parents[1] / "libautoep_mpi.so"

__all__ = ["MPI_LIBRARY", "engine"]
