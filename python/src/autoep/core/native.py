"""The C extension, or the error that says why it cannot be loaded."""

from __future__ import annotations

import zlib
from pathlib import Path

from autoep.errors import MissingLibraryError

try:
    from autoep import _engine as engine
except ImportError as error:
    raise MissingLibraryError(
        f"the engine of autoep cannot be loaded ({error}); install the package again with"
        " `pip install ./python` from a checkout of AutoEP"
    ) from error

_FOLDER = Path(__file__).parents[1]
MPI_LIBRARY = _FOLDER / "libautoep_mpi.so"

__all__ = ["MPI_LIBRARY", "build", "engine"]


def build() -> str:
    """Returns the engine's version with the checksum of its library."""
    return f"{engine.version()}+{zlib.crc32((_FOLDER / 'libautoep.so').read_bytes()):08x}"
