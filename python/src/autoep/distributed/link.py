"""How the ranks of an EP group exchange rows."""

from __future__ import annotations

from typing import NamedTuple

import torch

from autoep.core.options import Dispatch


class Link(NamedTuple):
    """How the ranks of an EP group exchange rows.

    Attributes:
        device: Where this rank computes.
        timeout: Seconds after which a missing rank is an error.
        dispatch: What the layers send, slots or tokens; see `Communicator.dispatch`.
        transport: How rows travel between GPUs: `ExpertParallelConfig.dispatch`.
    """

    device: torch.device
    timeout: float
    dispatch: Dispatch
    transport: str = "nccl"
