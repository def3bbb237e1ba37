"""The file of a checkpoint that names its format: which versions and contents are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support import models

import autoep
from autoep.checkpoints.format import FORMAT_VERSION


@pytest.fixture(scope="module")
def engine() -> autoep.training.engine.Engine:
    return autoep.initialize(model=models.tiny("mixtral"), config={})[0]


@pytest.fixture
def run_file(engine, tmp_path: Path) -> Path:
    engine.save_checkpoint(tmp_path, "mine")
    return tmp_path / "mine" / "run.pt"


def test_a_checkpoint_has_its_version(engine, run_file: Path) -> None:
    assert torch.load(run_file, weights_only=True)["format_version"] == FORMAT_VERSION == 1
    assert engine.load_checkpoint(run_file.parents[1])[0] == str(run_file.parent)


@pytest.mark.parametrize(
    ("version", "got"), [(None, "none"), (0, "0"), (2, "2"), ("1.0", "'1.0'"), (True, "True")]
)
def test_another_version_is_refused(engine, run_file: Path, version: object, got: str) -> None:
    run = torch.load(run_file, weights_only=True)
    run["format_version"] = version
    if version is None:
        del run["format_version"]
    torch.save(run, run_file)
    before = models.bits(engine)
    says = f"{run_file}: format version: got {got}, expected 1. Load the checkpoint with the"
    with pytest.raises(autoep.CheckpointError, match=re.escape(says)):
        engine.load_checkpoint(run_file.parents[1])
    assert models.bits(engine) == before


@pytest.mark.parametrize(
    "contents", [[1, 2], {"format_version": torch.ones(2)}], ids=["list", "tensor"]
)
def test_what_is_no_run_is_refused(engine, run_file: Path, contents: object) -> None:
    torch.save(contents, run_file)
    with pytest.raises(autoep.CheckpointError, match="format version: got"):
        engine.load_checkpoint(run_file.parents[1])


class Harmful:
    """An object whose pickle would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_nothing_is_executed(engine, run_file: Path, tmp_path: Path) -> None:
    torch.save({"format_version": Harmful(tmp_path / "executed")}, run_file)
    with pytest.raises(autoep.CheckpointError, match=r"run\.pt cannot be read \(UnpicklingError\)"):
        engine.load_checkpoint(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_damaged_file_is_refused(engine, run_file: Path) -> None:
    run_file.write_bytes(run_file.read_bytes()[:100])
    with pytest.raises(autoep.CheckpointError, match=r"run\.pt cannot be read .*it is damaged"):
        engine.load_checkpoint(run_file.parents[1])


def test_loading_drops_what_an_unfinished_step_left(tmp_path: Path) -> None:
    """The gradients of a backward before it are not those of the step after it."""
    config = {"optimizer": {"type": "SGD", "params": {"lr": 0.1}}}

    def start() -> autoep.training.engine.Engine:
        return autoep.initialize(model=models.tiny("mixtral"), config=config)[0]

    def step(engine: autoep.training.engine.Engine) -> dict[str, bytes]:
        engine.backward(engine(**models.batch(1)).loss)
        engine.step()
        return models.bits(engine)

    expected = step(start())
    engine = start()
    engine.save_checkpoint(tmp_path)
    engine.backward(engine(**models.batch(2)).loss * float("nan"))
    engine.reduce_gradients()
    engine.load_checkpoint(tmp_path)
    assert step(engine) == expected
    assert engine.expert_load().sum() == 2 * 24 * 2, "the tokens of one micro-batch"
