"""Exchanging rows between ranks."""

from __future__ import annotations

from collections.abc import Sequence

from autoep.core.arrays import Array, empty, is_torch, plain
from autoep.core.native import engine
from autoep.core.options import counts
from autoep.distributed.communicator import Communicator, handle_of
from autoep.errors import InvalidArgumentError
from autoep.functional._torch_op import torch_op


def exchange_counts(send_rows: Sequence[int], *, comm: Communicator) -> list[int]:
    """Returns the number of rows that each rank will send to this one; collective.

    Args:
        send_rows: [P], the rows that this rank will send to each rank.
        comm: The ranks.

    Returns:
        [P], the rows that each rank will send to this one.
    """
    return engine.exchange_counts(handle_of(comm), counts("send_rows", send_rows))


def all_to_all(
    x: Array,
    send_rows: Sequence[int] | None = None,
    receive_rows: Sequence[int] | None = None,
    *,
    comm: Communicator,
) -> Array:
    """Sends each rank its rows of `x`, and returns the rows of all ranks; collective.

    Args:
        x: [sum of send_rows, ...], the rows for each rank in rank order; differentiable.
        send_rows: [P], the rows for each rank; None to split the rows evenly.
        receive_rows: [P], the rows from each rank; None to exchange the counts first.
        comm: The ranks.

    Returns:
        [sum of receive_rows, ...], the rows from each rank in rank order.
    """
    sends = _equal_splits(x, comm) if send_rows is None else counts("send_rows", send_rows)
    receives = (
        exchange_counts(sends, comm=comm)
        if receive_rows is None
        else counts("receive_rows", receive_rows)
    )
    if is_torch(x):
        return torch_op("all_to_all")(x, sends, receives, comm)
    return all_to_all_forward(x, sends, receives, comm)


def all_to_all_forward(
    x: Array, send_rows: list[int], receive_rows: list[int], comm: Communicator
) -> Array:
    """Runs the exchange outside autograd."""
    send = plain("x", x, None)
    receive = empty(send, (sum(receive_rows), *send.shape[1:]))
    engine.all_to_all(handle_of(comm), send, send_rows, receive, receive_rows)
    return receive


def all_to_all_backward(
    grad_y: Array,
    send_rows: Sequence[int],
    receive_rows: Sequence[int],
    *,
    comm: Communicator,
) -> Array:
    """Returns the gradient of `all_to_all` to x: rows travel back; collective.

    Args:
        grad_y: [sum of receive_rows, ...].
        send_rows: [P], as in the forward.
        receive_rows: [P], as in the forward.
        comm: The ranks.
    """
    back, forth = counts("receive_rows", receive_rows), counts("send_rows", send_rows)
    return all_to_all_forward(grad_y, back, forth, comm)


def _equal_splits(x: Array, comm: Communicator) -> list[int]:
    shape = plain("x", x, None).shape
    _, ranks = engine.comm_rank(handle_of(comm))
    rows = shape[0] if shape else 0
    if rows % ranks:
        raise InvalidArgumentError(
            f"x: {rows} rows cannot be split evenly over {ranks} ranks; give send_rows"
        )
    return [rows // ranks] * ranks
