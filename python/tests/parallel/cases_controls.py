"""Comparisons over ranks fail on the rank that is wrong, and on no other."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from support import models
from support.cases import Ranks, case
from support.engines import ADAMW, start
from support.models import PlainRun
from torch import nn


def fails(check: Callable[..., None], *arguments: object) -> bool:
    """Whether a check that all ranks make fails on this one."""
    try:
        check(*arguments)
    except AssertionError:
        return True
    return False


def own_experts(plain: nn.Module, ranks: Ranks, ep_size: int) -> tuple[nn.Parameter, slice]:
    """A weight of the plain model, and those of its experts that this rank has."""
    count = 8 // ep_size
    first = (ranks.rank % ep_size) * count
    return plain.model.layers[1].mlp.experts.down_proj, slice(first, first + count)


@case(sizes=(2, 4), wrong_rank=[0, 1], ep_size=[1, 2, 4])
def one_wrong_rank_is_noticed(ranks: Ranks, wrong_rank: int, ep_size: int) -> None:
    model = models.tiny("mixtral", dtype=torch.float64)
    plain = PlainRun(copy.deepcopy(model))
    engine = start(model, ep_size, optimizer=ADAMW)
    batches = models.micro_batches(0, 1, ranks.size)
    plain.backward(batches)
    engine.backward(engine(**batches[0][ranks.rank]).loss)
    models.assert_same_gradients(engine, plain.model)
    weight, own = own_experts(plain.model, ranks, ep_size)
    is_wrong = ranks.rank == wrong_rank
    if is_wrong:  # its experts have each other's gradients and weights
        with torch.no_grad():
            weight.grad[own] = weight.grad[own].roll(1, 0)
            weight[own] = weight[own].roll(1, 0)
    assert fails(models.assert_same_gradients, engine, plain.model) == is_wrong
    assert fails(models.assert_same_weights, engine, plain.model) == is_wrong


@case(sizes=(2, 4), ep_size=[2, 4])
def experts_of_another_rank_are_not_mine(ranks: Ranks, ep_size: int) -> None:
    """Each rank compares with the part that it has, not with some part."""
    engine = start(models.tiny("mixtral", dtype=torch.float64), ep_size)
    plain = models.tiny("mixtral", dtype=torch.float64)
    models.assert_same_weights(engine, plain)
    for layer in plain.model.layers:
        weight = layer.mlp.experts.gate_up_proj
        weight.data = weight.data.roll(8 // ep_size, 0)
    with pytest.raises(AssertionError):
        models.assert_same_weights(engine, plain)
