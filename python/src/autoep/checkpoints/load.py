"""Continuing a training run from a checkpoint."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from autoep.checkpoints.format import (
    CUDA_SUFFIX,
    LATEST_FILE,
    RANDOM,
    RUN_FILE,
    Tensors,
    dcp_errors,
    former_path,
    model_tensors,
    optimizer_prefix,
    random_states,
    read_run,
    setup_of,
)
from autoep.checkpoints.state import TrainState
from autoep.errors import CheckpointError


def load(
    state: TrainState, folder: str | PathLike[str], tag: str | None
) -> tuple[str | None, dict[str, Any]]:
    """Restores a run from a checkpoint; collective.

    Args:
        state: The run, which is updated.
        folder: The folder given to `save`.
        tag: The checkpoint's name in it; None for the latest.

    Returns:
        The checkpoint's path and the caller's data; (None, {}) if the folder has none.

    Raises:
        CheckpointError: There is no such checkpoint, it cannot be read, or it is of another
            version, layout, model or optimizer.
    """
    path = _find(Path(folder), tag)
    if path is None:
        warnings.warn(f"{folder} has no checkpoint to load: there is no `latest`", stacklevel=3)
        return None, {}
    run = read_run(path)
    _check_same_setup(state, path, run["setup"])
    _load_tensors(state, path)
    _restore(state, run)
    return str(path), run["client_state"]


def _find(root: Path, tag: str | None) -> Path | None:
    if tag is None:
        latest = root / LATEST_FILE
        if not latest.exists():
            return None
        tag = latest.read_text().strip()
    for path in (root / tag, former_path(root, tag)):
        if (path / RUN_FILE).exists():
            return path
    known = sorted(path.parent.name for path in root.glob(f"[!.]*/{RUN_FILE}"))
    raise CheckpointError(f"{root} has no checkpoint {tag!r}; it has: {', '.join(known) or 'none'}")


def _check_same_setup(state: TrainState, path: Path, saved: dict[str, Any]) -> None:
    """Raises if the checkpoint was written by a run that this one cannot continue."""
    for what, now in setup_of(state).items():
        then = saved[what]
        if now == then:
            continue
        if isinstance(now, list):
            raise CheckpointError(f"{path} was written with other parameter groups")
        raise CheckpointError(
            f"{path} was written with {what} {then}, and this run has {now}. Continue it with"
            f" {then}; reading it into another layout is not supported yet."
        )


def _load_tensors(state: TrainState, path: Path) -> None:
    """Reads every tensor into its place, and allocates the optimizer's states."""
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    wanted = model_tensors(state)
    optimizer_states: dict[nn.Parameter, Tensors] = {}
    all_on_device = _all_on_device(state)
    for row in state.parameter_table:
        prefix = optimizer_prefix(row.name)
        optimizer_states[row.master] = {
            key.removeprefix(prefix): _like_stored(about, row.master, row.master in all_on_device)
            for key, about in stored.items()
            if key.startswith(prefix)
        }
        wanted |= {prefix + entry: value for entry, value in optimizer_states[row.master].items()}
    # A checkpoint of a run on CPUs has no random state of a GPU.
    random = {
        name: value
        for name, value in random_states(state).items()
        if name in stored or not name.endswith(CUDA_SUFFIX)
    }
    wanted |= random
    _check_names(path, wanted, stored)
    with dcp_errors(f"cannot read {path}"):
        dcp.load(wanted, checkpoint_id=path, no_dist=state.world.size == 1)
    state.parameter_table.copy_to_model()
    _set_random_states(state, random)
    if state.optimizer is not None:
        state.optimizer.state.clear()  # a checkpoint from before the first step has none
        state.optimizer.state.update({p: s for p, s in optimizer_states.items() if s})


def _all_on_device(state: TrainState) -> set[nn.Parameter]:
    """Returns the parameters whose optimizer keeps even its step counter on their device."""
    return {
        parameter
        for group in state.optimizer_groups()
        if group.get("fused") or group.get("capturable")
        for parameter in group["params"]
    }


def _like_stored(
    about: TensorStorageMetadata, parameter: nn.Parameter, on_device: bool
) -> torch.Tensor:
    """Allocates an entry of the optimizer's state: sharded like its parameter if of its shape."""
    if about.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=about.properties.dtype, requires_grad=False)
    device = parameter.device if on_device else None
    return torch.zeros(about.size, dtype=about.properties.dtype, device=device)


def _check_names(path: Path, wanted: Tensors, stored: dict[str, Any]) -> None:
    others = {key for key in stored if not key.startswith(RANDOM)}
    own = {key for key in wanted if not key.startswith(RANDOM)}
    if own != others:
        missing, extra = sorted(own - others)[:3], sorted(others - own)[:3]
        raise CheckpointError(
            f"{path} is of another model or optimizer: it lacks {', '.join(missing) or 'nothing'}"
            f" and has {', '.join(extra) or 'nothing'} besides (the first three each)"
        )


def _set_random_states(state: TrainState, states: Tensors) -> None:
    for name, value in states.items():
        if name.endswith(CUDA_SUFFIX):
            torch.cuda.set_rng_state(value, state.device)
        else:
            torch.set_rng_state(value)


def _restore(state: TrainState, run: dict[str, Any]) -> None:
    """Restores everything that `run.pt` holds."""
    state.global_steps = run["global_steps"]
    state.micro_steps = run["micro_steps"]
    if state.optimizer is not None:
        for group, saved in zip(state.optimizer.param_groups, run["groups"], strict=True):
            group.update(saved)
        for row in state.parameter_table:
            values = run["optimizer_values"][row.name]
            if values:
                state.optimizer.state[row.master].update(values)
    if state.lr_scheduler is not None:
        state.lr_scheduler.load_state_dict(run["scheduler"])
    if state.loader is not None and run["epoch"] is not None:
        state.loader.epoch = run["epoch"]
