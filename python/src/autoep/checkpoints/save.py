"""Saving a training run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from autoep.checkpoints.format import (
    LATEST_FILE,
    RUN_FILE,
    Tensors,
    dcp_errors,
    former_path,
    model_tensors,
    optimizer_prefix,
    random_states,
    run_to_bytes,
    setup_of,
    unfinished_path,
)
from autoep.checkpoints.state import TrainState
from autoep.distributed.launch import World
from autoep.errors import CheckpointError


def save(
    state: TrainState, folder: str | PathLike[str], tag: str, client_state: dict[str, Any]
) -> None:
    """Writes a checkpoint and makes it the latest; collective.

    Args:
        state: The run.
        folder: A folder that all ranks can access.
        tag: The checkpoint's name in it.
        client_state: Plain data of the caller's.

    Raises:
        CheckpointError: A step is unfinished, the tag is not a name, `client_state` is not
            plain data, or a file could not be written.
    """
    _check_between_steps(state)
    _check_tag(tag)
    root = Path(folder)
    unfinished = unfinished_path(root, tag)
    _on_rank_zero(state.world, lambda: _begin(unfinished, _run_state(state, client_state)))
    with dcp_errors(f"cannot write {unfinished}"):
        dcp.save(_tensors(state), checkpoint_id=unfinished, no_dist=state.world.size == 1)
    _on_rank_zero(state.world, lambda: _finish(root, unfinished, tag))


def _check_between_steps(state: TrainState) -> None:
    accumulation = state.batch_sizes.accumulation
    if state.micro_steps % accumulation != 0:
        raise CheckpointError(
            "a checkpoint holds no half-summed gradients: save after the engine.step() that ends"
            f" the {accumulation} micro-batches of a step"
        )


def _check_tag(tag: str) -> None:
    if not tag or tag == LATEST_FILE or tag.startswith(".") or Path(tag).name != tag:
        raise CheckpointError(f"tag: given {tag!r}; allowed: a folder's name, not {LATEST_FILE!r}")


def _tensors(state: TrainState) -> Tensors:
    """Returns everything that DCP writes; sharded tensors are DTensors."""
    tensors = model_tensors(state)
    for row in state.parameter_table:
        for entry, value in state.optimizer_state_of(row.master).items():
            if isinstance(value, torch.Tensor):
                tensors[optimizer_prefix(row.name) + entry] = value
    return tensors | random_states(state)


def _run_state(state: TrainState, client_state: dict[str, Any]) -> bytes:
    """Returns `run.pt`: everything but the tensors that DCP writes."""
    return run_to_bytes(
        {
            "setup": setup_of(state),
            "global_steps": state.global_steps,
            "micro_steps": state.micro_steps,
            "groups": [
                {option: value for option, value in group.items() if option != "params"}
                for group in state.optimizer_groups()
            ],
            "optimizer_values": {
                row.name: {
                    entry: value
                    for entry, value in state.optimizer_state_of(row.master).items()
                    if not isinstance(value, torch.Tensor)
                }
                for row in state.parameter_table
            },
            "scheduler": None if state.lr_scheduler is None else state.lr_scheduler.state_dict(),
            "epoch": None if state.loader is None else state.loader.epoch,
            "client_state": client_state,
        }
    )


def _begin(unfinished: Path, run: bytes) -> None:
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    _write_synced(unfinished / RUN_FILE, run)


def _finish(root: Path, unfinished: Path, tag: str) -> None:
    """Gives a complete checkpoint its name, and points `latest` at it."""
    former = former_path(root, tag)
    if (root / tag).exists():
        shutil.rmtree(former, ignore_errors=True)
        os.rename(root / tag, former)
    os.rename(unfinished, root / tag)
    _write_synced(unfinished_path(root, LATEST_FILE), tag.encode())
    os.replace(unfinished_path(root, LATEST_FILE), root / LATEST_FILE)
    shutil.rmtree(former, ignore_errors=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _on_rank_zero(world: World, action: Callable[[], None]) -> None:
    """Runs an action on rank 0 and raises its error on every rank; collective."""
    outcome: list[str | None] = [None]
    if world.rank == 0:
        try:
            action()
        except (OSError, CheckpointError) as error:
            outcome = [f"{type(error).__name__}: {error}"]
    if world.size > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[0] is not None:
        raise CheckpointError(f"rank 0 cannot write the checkpoint: {outcome[0]}")
