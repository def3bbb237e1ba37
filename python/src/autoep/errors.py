"""The errors that AutoEP raises: one class per kind of failure."""


class Error(Exception):
    """The base of every error that AutoEP raises.

    Attributes:
        step: The exchange between ranks that failed, such as "dispatch"; None for other failures.
        ranks: The ranks that did not join it or failed, if known.
    """

    step: str | None = None
    ranks: tuple[int, ...] = ()


class InvalidArgumentError(Error, ValueError):
    """A value, shape, dtype or device is wrong; the text says what was given and expected."""


class InvalidHandleError(Error):
    """A communicator, layer or plan was closed, or belongs to another process."""


class UnsupportedError(Error):
    """The request is well-formed, but this build does not support it."""


class OutOfMemoryError(Error, MemoryError):
    """There is not enough memory for the call."""


class CommunicationError(Error):
    """An exchange between ranks failed."""


class DeadlineError(Error, TimeoutError):
    """A rank did not join an exchange before the deadline; the text names it."""


class MissingLibraryError(Error, ImportError):
    """A library that the call needs is not on this machine."""


class InternalError(Error):
    """A bug in AutoEP."""


class ConfigError(Error, ValueError):
    """A key of the configuration is wrong; the text says what was given and what is allowed."""


class ModelError(Error, ValueError):
    """The model, or an argument that belongs to it, cannot be trained this way."""


class CheckpointError(Error):
    """A checkpoint cannot be written or read."""


# The class of each status of autoep.h, by its number; the C extension reads it.
BY_STATUS = (
    InternalError,  # AUTOEP_OK is not raised
    InvalidArgumentError,
    InvalidHandleError,
    UnsupportedError,
    OutOfMemoryError,
    CommunicationError,
    DeadlineError,
    MissingLibraryError,
    InternalError,
)
