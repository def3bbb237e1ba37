"""Checkpoints of a run, through torch's DCP.

A checkpoint is a folder with DCP's files (weights, optimizer states and each rank's random state,
every tensor by a name) and `run.pt`, which holds everything else. It is written under another
name and renamed when it is whole; the file `latest` names the one to go on from.
"""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from autoep.errors import CheckpointError

Tensors = dict[str, torch.Tensor]

_RUN_FILE = "run.pt"
_LATEST_FILE = "latest"
_MODEL = "model/"
_OPTIMIZER = "optimizer/"
_RANDOM = "random/"
_OF_GPU = "/cuda"


def save(
    engine: Any, folder: str | PathLike[str], tag: str, client_state: dict[str, Any] | None
) -> None:
    """Writes a checkpoint and makes it the latest; collective."""
    _check_between_steps(engine)
    _check_tag(tag)
    root = Path(folder)
    unfinished = root / f".{tag}.unfinished"
    _on_rank_zero(engine, lambda: _begin(root, unfinished, _run_state(engine, client_state or {})))
    with _dcp_says(f"cannot write {unfinished}"):
        dcp.save(_tensors(engine), checkpoint_id=unfinished, no_dist=engine.world_size == 1)
    _on_rank_zero(engine, lambda: _finish(root, unfinished, tag))


def load(
    engine: Any, folder: str | PathLike[str], tag: str | None
) -> tuple[str | None, dict[str, Any]]:
    """Puts a checkpoint into the engine; collective. Returns its path and the client's state."""
    path = _find(Path(folder), tag)
    if path is None:
        warnings.warn(f"{folder} has no checkpoint to load: there is no `latest`", stacklevel=3)
        return None, {}
    run = torch.load(path / _RUN_FILE, weights_only=True)
    _check_same_run(engine, path, run)
    _load_tensors(engine, path)
    _restore(engine, run)
    return str(path), run["client_state"]


def _tensors(engine: Any) -> Tensors:
    """Everything that DCP writes; sharded tensors are DTensors."""
    tensors = _model_tensors(engine)
    for parameter, name in _stepped_names(engine).items():
        for entry, value in _optimizer_state(engine, parameter).items():
            if isinstance(value, torch.Tensor):
                tensors[f"{_OPTIMIZER}{name}/{entry}"] = value
    return tensors | _random_states(engine)


def _random_states(engine: Any) -> Tensors:
    """The random states that this rank draws from."""
    states = {f"{_RANDOM}{engine.global_rank}": torch.get_rng_state()}
    if engine.device.type == "cuda":
        states[f"{_RANDOM}{engine.global_rank}{_OF_GPU}"] = torch.cuda.get_rng_state(engine.device)
    return states


def _set_random_states(engine: Any, states: Tensors) -> None:
    for name, state in states.items():
        if name.endswith(_OF_GPU):
            torch.cuda.set_rng_state(state, engine.device)
        else:
            torch.set_rng_state(state)


def _model_tensors(engine: Any) -> Tensors:
    """The weights (a bf16 run's in float32) and buffers; tied ones once."""
    named: Tensors = {}
    seen: set[torch.Tensor] = set()
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        if tensor not in seen:
            seen.add(tensor)
            kept = engine.masters.of(tensor) if isinstance(tensor, nn.Parameter) else tensor
            named[_MODEL + name] = kept.detach()
    return named


def _stepped_names(engine: Any) -> dict[nn.Parameter, str]:
    """The model's name of each parameter that the optimizer may step."""
    return {engine.masters.of(p): name for name, p in engine.module.named_parameters()}


def _optimizer_state(engine: Any, parameter: nn.Parameter) -> dict[str, Any]:
    return {} if engine.optimizer is None else engine.optimizer.state.get(parameter, {})


def _setup(engine: Any) -> dict[str, Any]:
    """What two runs have in common, if one can go on from the other's checkpoint."""
    names = _stepped_names(engine)
    optimizer, scheduler = engine.optimizer, engine.lr_scheduler
    groups = [] if optimizer is None else optimizer.param_groups
    return {
        "ranks": engine.world_size,
        "autoep_size": engine.groups.ep_size,
        "optimizer": None if optimizer is None else type(optimizer).__name__,
        "lr_scheduler": None if scheduler is None else type(scheduler).__name__,
        "parameter groups": [[names[p] for p in group["params"]] for group in groups],
    }


def _run_state(engine: Any, client_state: dict[str, Any]) -> bytes:
    """Everything that is no large tensor, in torch's format, in which only plain data is read."""
    groups = [] if engine.optimizer is None else engine.optimizer.param_groups
    scheduler, loader = engine.lr_scheduler, engine.training_dataloader
    run = {
        "setup": _setup(engine),
        "global_steps": engine.global_steps,
        "micro_steps": engine.micro_steps,
        "groups": [
            {option: value for option, value in group.items() if option != "params"}
            for group in groups
        ],
        "optimizer_values": {
            name: {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
            for parameter, name in _stepped_names(engine).items()
            for state in [_optimizer_state(engine, parameter)]
        },
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "epoch": None if loader is None else loader.epoch,
        "client_state": client_state,
    }
    written = io.BytesIO()
    try:
        torch.save(run, written)
        torch.load(io.BytesIO(written.getvalue()), weights_only=True)
    except Exception as error:
        raise CheckpointError(
            "client_state (or the scheduler's state) holds something that would not be read back:"
            f" {error}. Allowed: numbers, strings, tensors, and lists, tuples and dicts of them."
        ) from error
    return written.getvalue()


def _begin(root: Path, unfinished: Path, run: bytes) -> None:
    root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    _write_synced(unfinished / _RUN_FILE, run)


def _finish(root: Path, unfinished: Path, tag: str) -> None:
    """Gives a whole checkpoint its name, and points `latest` at it."""
    former = _former(root, tag)
    if (root / tag).exists():
        shutil.rmtree(former, ignore_errors=True)
        os.rename(root / tag, former)
    os.rename(unfinished, root / tag)
    _write_synced(root / f".{_LATEST_FILE}.unfinished", tag.encode())
    os.replace(root / f".{_LATEST_FILE}.unfinished", root / _LATEST_FILE)
    shutil.rmtree(former, ignore_errors=True)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _former(root: Path, tag: str) -> Path:
    """Where a checkpoint stands while one of the same name takes its place."""
    return root / f".{tag}.former"


def _find(root: Path, tag: str | None) -> Path | None:
    latest = root / _LATEST_FILE
    if tag is None:
        if not latest.exists():
            return None
        tag = latest.read_text().strip()
    for path in (root / tag, _former(root, tag)):
        if (path / _RUN_FILE).exists():
            return path
    known = sorted(path.parent.name for path in root.glob(f"[!.]*/{_RUN_FILE}"))
    raise CheckpointError(f"{root} has no checkpoint {tag!r}; it has: {', '.join(known) or 'none'}")


def _check_between_steps(engine: Any) -> None:
    if engine.micro_steps % engine.gradient_accumulation_steps() != 0:
        raise CheckpointError(
            "a checkpoint holds no half-summed gradients: save after the engine.step() that ends"
            f" the {engine.gradient_accumulation_steps()} micro-batches of a step"
        )


def _check_tag(tag: str) -> None:
    if not tag or tag == _LATEST_FILE or tag.startswith(".") or Path(tag).name != tag:
        raise CheckpointError(f"tag: given {tag!r}; allowed: a folder's name, not {_LATEST_FILE!r}")


def _check_same_run(engine: Any, path: Path, run: dict[str, Any]) -> None:
    """Raises where the checkpoint was written by a run that this one cannot go on from."""
    for what, now in _setup(engine).items():
        then = run["setup"][what]
        if now == then:
            continue
        if isinstance(now, list):
            raise CheckpointError(f"{path} was written with other parameter groups")
        raise CheckpointError(
            f"{path} was written with {what} {then}, and this run has {now}. Continue it with"
            f" {then}; reading it into another layout is not supported yet."
        )


def _load_tensors(engine: Any, path: Path) -> None:
    """Reads every tensor into its place, and makes the optimizer's states, which are not there."""
    stored = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    wanted = _model_tensors(engine)
    states: dict[nn.Parameter, dict[str, torch.Tensor]] = {}
    all_on_device = _keep_all_on_device(engine)
    for parameter, name in _stepped_names(engine).items():
        prefix = f"{_OPTIMIZER}{name}/"
        states[parameter] = {
            key.removeprefix(prefix): _like_stored(about, parameter, parameter in all_on_device)
            for key, about in stored.items()
            if key.startswith(prefix)
        }
        wanted |= {prefix + entry: value for entry, value in states[parameter].items()}
    # A checkpoint of a run on CPUs has no state of a GPU.
    random = {
        name: state
        for name, state in _random_states(engine).items()
        if name in stored or not name.endswith(_OF_GPU)
    }
    wanted |= random
    _check_names(path, wanted, stored)
    with _dcp_says(f"cannot read {path}"):
        dcp.load(wanted, checkpoint_id=path, no_dist=engine.world_size == 1)
    engine.masters.publish()
    _set_random_states(engine, random)
    if engine.optimizer is not None:
        engine.optimizer.state.clear()  # a checkpoint from before the first step has none
        engine.optimizer.state.update({p: state for p, state in states.items() if state})


def _keep_all_on_device(engine: Any) -> set[nn.Parameter]:
    """The parameters whose optimizer keeps even its counter of steps on their device."""
    groups = [] if engine.optimizer is None else engine.optimizer.param_groups
    return {
        parameter
        for group in groups
        if group.get("fused") or group.get("capturable")
        for parameter in group["params"]
    }


def _like_stored(
    about: TensorStorageMetadata, parameter: nn.Parameter, on_device: bool
) -> torch.Tensor:
    """Room for an entry of the optimizer's state: sharded as its parameter, if of its shape."""
    if about.size == parameter.shape:
        return torch.zeros_like(parameter, dtype=about.properties.dtype, requires_grad=False)
    device = parameter.device if on_device else None
    return torch.zeros(about.size, dtype=about.properties.dtype, device=device)


def _check_names(path: Path, wanted: Tensors, stored: dict[str, Any]) -> None:
    others = {key for key in stored if not key.startswith(_RANDOM)}
    own = {key for key in wanted if not key.startswith(_RANDOM)}
    if own != others:
        missing, extra = sorted(own - others)[:3], sorted(others - own)[:3]
        raise CheckpointError(
            f"{path} is of another model or optimizer: it lacks {', '.join(missing) or 'nothing'}"
            f" and has {', '.join(extra) or 'nothing'} besides (the first three each)"
        )


def _restore(engine: Any, run: dict[str, Any]) -> None:
    engine.global_steps = run["global_steps"]
    engine.micro_steps = run["micro_steps"]
    if engine.optimizer is not None:
        for group, saved in zip(engine.optimizer.param_groups, run["groups"], strict=True):
            group.update(saved)
        for parameter, name in _stepped_names(engine).items():
            values = run["optimizer_values"][name]
            if values:
                engine.optimizer.state[parameter].update(values)
    if engine.lr_scheduler is not None:
        engine.lr_scheduler.load_state_dict(run["scheduler"])
    if engine.training_dataloader is not None and run["epoch"] is not None:
        engine.training_dataloader.epoch = run["epoch"]


@contextmanager
def _dcp_says(what: str) -> Iterator[None]:
    """Turns DCP's errors, which all ranks get, into one of ours; a single process is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            raise CheckpointError(f"{what}: {error}") from error


def _on_rank_zero(engine: Any, action: Callable[[], None]) -> None:
    """Runs an action on rank 0; where it fails, it fails on every rank; collective."""
    outcome: list[str | None] = [None]
    if engine.global_rank == 0:
        try:
            action()
        except (OSError, CheckpointError) as error:
            outcome = [f"{type(error).__name__}: {error}"]
    if engine.world_size > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[0] is not None:
        raise CheckpointError(f"rank 0 cannot write the checkpoint: {outcome[0]}")
