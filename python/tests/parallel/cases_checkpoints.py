"""Checkpoints of the engine: what they bring back, which are refused, and saves that fail."""

from __future__ import annotations

import os
from unittest import mock

import pytest
import torch
from support import models
from support.cases import Ranks, case
from support.engines import ADAMW, BF16, full, start, train

import autoep


@case(bf16=BF16, ep_size=[1, 2, 4])
def a_checkpoint_continues_with_the_same_bits(ranks: Ranks, bf16: bool, ep_size: int) -> None:
    engine = full(ranks, bf16, ep_size)
    torch.manual_seed(ranks.rank)
    train(engine, ranks, range(2))
    engine.save_checkpoint(ranks.folder, client_state={"epoch": 3, "of": [1.5, "a"]})
    expected = train(engine, ranks, range(2, 4)), models.bits(engine), engine.get_lr()

    other = full(ranks, bf16, ep_size, seed=7)
    path, client_state = other.load_checkpoint(ranks.folder)
    assert path == str(ranks.folder / "global_step2")
    assert client_state == {"epoch": 3, "of": [1.5, "a"]}
    assert other.global_steps == 2
    found = train(other, ranks, range(2, 4)), models.bits(other), other.get_lr()
    assert found == expected


@case(sizes=(2, 4))
def a_checkpoint_of_another_layout_is_refused(ranks: Ranks) -> None:
    engine = full(ranks, False, ranks.size)
    train(engine, ranks, range(1))
    engine.save_checkpoint(ranks.folder, "here")
    with pytest.raises(autoep.CheckpointError, match=f"autoep_size {ranks.size}, and this"):
        full(ranks, False, 1).load_checkpoint(ranks.folder, "here")
    with pytest.raises(autoep.CheckpointError, match="optimizer AdamW, and this run has SGD"):
        full(ranks, False, ranks.size, {"type": "SGD"}).load_checkpoint(ranks.folder)
    with pytest.raises(autoep.CheckpointError, match="other parameter groups"):
        full(ranks, False, ranks.size, num_hidden_layers=1).load_checkpoint(ranks.folder)
    with pytest.raises(autoep.CheckpointError, match="LambdaLR, and this run has None"):
        start(models.tiny("mixtral"), ranks.size, optimizer=ADAMW).load_checkpoint(ranks.folder)


@case()
def a_failed_save_leaves_the_checkpoint_before(ranks: Ranks) -> None:
    engine = full(ranks, False)
    train(engine, ranks, range(1))
    engine.save_checkpoint(ranks.folder, "mine")
    saved = models.bits(engine)
    for failing in ("rename", "fsync", "replace"):
        train(engine, ranks, range(1, 2))
        with (
            mock.patch(f"os.{failing}", side_effect=OSError(28, "No space left")),
            pytest.raises(autoep.CheckpointError, match="No space left"),
        ):
            engine.save_checkpoint(ranks.folder, f"not_{failing}")
    other = full(ranks, False, seed=7)
    assert other.load_checkpoint(ranks.folder)[0] == str(ranks.folder / "mine")
    assert models.bits(other) == saved


@case()
def a_failed_overwrite_leaves_the_checkpoint_before(ranks: Ranks) -> None:
    """Also when it fails between the two renames."""
    engine = full(ranks, False)
    train(engine, ranks, range(1))
    engine.save_checkpoint(ranks.folder, "mine")
    saved = models.bits(engine)
    train(engine, ranks, range(1, 2))
    rename, calls = os.rename, []

    def second_fails(source, target) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    with (
        mock.patch("os.rename", second_fails),
        pytest.raises(autoep.CheckpointError, match="Input/output"),
    ):
        engine.save_checkpoint(ranks.folder, "mine")
    other = full(ranks, False, seed=7)
    other.load_checkpoint(ranks.folder)
    assert models.bits(other) == saved
    engine.save_checkpoint(ranks.folder, "mine")
    other.load_checkpoint(ranks.folder)
    assert models.bits(other) == models.bits(engine)


@case()
def wrong_checkpoints_are_refused(ranks: Ranks) -> None:
    engine = full(ranks, False)
    with pytest.warns(UserWarning, match="no checkpoint to load"):
        assert engine.load_checkpoint(ranks.folder) == (None, {})
    with pytest.raises(autoep.CheckpointError, match="it has: none"):
        engine.load_checkpoint(ranks.folder, "missing")
    for tag in ("latest", "a/b", "..", ".hidden"):
        with pytest.raises(autoep.CheckpointError, match="tag"):
            engine.save_checkpoint(ranks.folder, tag)
    with pytest.raises(autoep.CheckpointError, match="client_state"):
        engine.save_checkpoint(ranks.folder, client_state={"engine": Ranks})
    engine.backward(engine(**models.batch(ranks.rank)).loss)
    engine.step()
    with pytest.raises(autoep.CheckpointError, match="half-summed"):
        engine.save_checkpoint(ranks.folder)
