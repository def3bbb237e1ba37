"""The format of a checkpoint: a folder, its files, and the names of its tensors.

A checkpoint is a folder with the files of torch's DCP (weights, optimizer states and each rank's
random state, every tensor by a name) and `run.pt`, which holds everything else. It is written under
another name and renamed when complete; the file `latest` names the one to continue from.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException

from autoep.checkpoints.state import TrainState
from autoep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

# The version of the names in this module and of the keys of `run.pt`. Increase it with every change
# that another version of the reader would misread, or refuse without naming the reason.
FORMAT_VERSION = 1

RUN_FILE = "run.pt"
LATEST_FILE = "latest"
RANDOM = "random/"
CUDA_SUFFIX = "/cuda"

_MODEL = "model/"


def optimizer_prefix(name: str) -> str:
    """Returns the prefix of the names of a parameter's optimizer state."""
    return f"optimizer/{name}/"


def unfinished_path(root: Path, tag: str) -> Path:
    """Returns the path of a checkpoint, or of `latest`, that is being written."""
    return root / f".{tag}.unfinished"


def former_path(root: Path, tag: str) -> Path:
    """Returns the path of a checkpoint while another of the same name takes its place."""
    return root / f".{tag}.former"


def model_tensors(state: TrainState) -> Tensors:
    """Returns the weights (in a bf16 run the masters) and the buffers; tied ones once."""
    masters = {row.computing: row.master for row in state.parameter_table}
    named: Tensors = {}
    seen: set[torch.Tensor] = set()
    for name, tensor in state.model.state_dict(keep_vars=True).items():
        if tensor not in seen:
            seen.add(tensor)
            kept = masters.get(tensor, tensor) if isinstance(tensor, nn.Parameter) else tensor
            named[_MODEL + name] = kept.detach()
    return named


def random_states(state: TrainState) -> Tensors:
    """Returns the states of the random generators that this rank draws from."""
    name = f"{RANDOM}{state.world.rank}"
    states = {name: torch.get_rng_state()}
    if state.device.type == "cuda":
        states[name + CUDA_SUFFIX] = torch.cuda.get_rng_state(state.device)
    return states


def setup_of(state: TrainState) -> dict[str, Any]:
    """Returns the properties that a run must share with the run whose checkpoint it continues."""
    names = {row.master: row.name for row in state.parameter_table}
    optimizer, scheduler = state.optimizer, state.lr_scheduler
    return {
        "ranks": state.world.size,
        "autoep_size": state.groups.ep_size,
        "optimizer": None if optimizer is None else type(optimizer).__name__,
        "lr_scheduler": None if scheduler is None else type(scheduler).__name__,
        "parameter groups": [
            [names[parameter] for parameter in group["params"]]
            for group in state.optimizer_groups()
        ],
    }


def run_to_bytes(run: dict[str, Any]) -> bytes:
    """Returns the contents of `run.pt`, in torch's format for plain data.

    Raises:
        CheckpointError: `run` holds something that `read_run` would refuse to read.
    """
    written = io.BytesIO()
    try:
        torch.save({"format_version": FORMAT_VERSION, **run}, written)
        torch.load(io.BytesIO(written.getvalue()), weights_only=True)
    except Exception as error:
        raise CheckpointError(
            "client_state (or the scheduler's state) holds something that would not be read back:"
            f" {error}. Allowed: numbers, strings, tensors, and lists, tuples and dicts of them."
        ) from error
    return written.getvalue()


def read_run(path: Path) -> dict[str, Any]:
    """Reads the `run.pt` of a checkpoint; nothing in it is executed.

    Raises:
        CheckpointError: It cannot be read, or is of another version.
    """
    file = path / RUN_FILE
    try:
        run = torch.load(file, weights_only=True)
    except Exception as error:  # also a pickle that would execute something
        reason = error if isinstance(error, OSError) else type(error).__name__
        raise CheckpointError(
            f"{file} cannot be read ({reason}): it is damaged, or engine.save_checkpoint has not"
            " written it. Load another checkpoint."
        ) from error
    version = run.get("format_version") if isinstance(run, dict) else None
    if type(version) is not int or version != FORMAT_VERSION:
        got = "none" if version is None else repr(version)
        raise CheckpointError(
            f"{file}: format version: got {got}, expected {FORMAT_VERSION}. Load the checkpoint"
            " with the version of autoep that wrote it, or start from another checkpoint."
        )
    return run


@contextmanager
def dcp_errors(what: str) -> Iterator[None]:
    """Converts DCP's errors, which all ranks get, to ours; hides its single-process warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            raise CheckpointError(f"{what}: {error}") from error
