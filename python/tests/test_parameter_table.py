"""The parameter table: what became of the caller's parameters, and what the optimizer steps."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from support import models
from torch import nn

import autoep
from autoep.detection.find import find_moe_layers
from autoep.layers.parameters import ParameterTable
from autoep.layers.stacking import stack_experts
from autoep.training.precision import compute_in_bf16


def table_of(model: nn.Module) -> ParameterTable:
    return ParameterTable(model, *stack_experts(find_moe_layers(model)))


def test_there_is_a_row_for_each_parameter_of_the_model() -> None:
    model = models.tiny("mixtral", tie_word_embeddings=True)
    table = table_of(model)
    rows = {row.name: row for row in table}
    assert list(rows) == [name for name, _ in model.named_parameters()]
    assert [row.computing for row in table] == list(model.parameters())
    for name, row in rows.items():
        assert row.given == (row.computing,)
        assert row.master is row.computing
        assert row.is_expert == (".experts." in name)
        assert (row.mesh, row.placements) == (None, ())
    tied = ("model.embed_tokens.weight", "lm_head.weight")
    assert [row.names for row in table if len(row.names) > 1] == [tied]


def test_a_replaced_parameter_is_replaced_wherever_it_is_tied() -> None:
    model = models.tiny("mixtral", tie_word_embeddings=True)
    table = table_of(model)
    row = next(iter(table))
    before, new = row.computing, nn.Parameter(row.computing.detach().double())
    table.replace(row, new)
    assert model.lm_head.weight is model.model.embed_tokens.weight is new
    assert table.optimizer_parameter_of(before) is table.optimizer_parameter_of(new) is new


def test_masters_are_float32_and_are_copied_to_the_model() -> None:
    model = models.tiny("mixtral")
    given = dict(model.named_parameters())
    given["lm_head.weight"].requires_grad_(False)
    table = table_of(model)
    compute_in_bf16(model, table)
    for row in table:
        assert row.computing is model.get_parameter(row.name)
        assert row.computing.dtype == torch.bfloat16
        expected = row.computing if row.name == "lm_head.weight" else given[row.name]
        assert table.optimizer_parameter_of(given[row.name]) is row.master is expected
    with torch.no_grad():
        given["model.norm.weight"].fill_(3.0)
    table.copy_to_model()
    assert (model.model.norm.weight == 3).all()


def test_several_parameters_may_become_one() -> None:
    model = nn.Linear(2, 4, bias=False)
    first, second = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2, 2))
    table = ParameterTable(model, (), {model.weight: (first, second)})
    (row,) = table
    assert row.given == (first, second)
    for parameter in (first, second, model.weight):
        assert table.optimizer_parameter_of(parameter) is row.master is model.weight


def test_a_foreign_parameter_is_refused() -> None:
    table = table_of(models.tiny("mixtral"))
    with pytest.raises(autoep.ModelError, match=r"shape \[3\] .* not in the model"):
        table.optimizer_parameter_of(nn.Parameter(torch.zeros(3)))


def test_the_engine_does_not_keep_the_callers_parameters() -> None:
    """A frozen float32 weight is freed once the model computes with its bfloat16 copy."""
    model = models.tiny("mixtral")
    model.lm_head.weight.requires_grad_(False)
    given = weakref.ref(model.lm_head.weight)
    engine, *_ = autoep.initialize(model=model, config={"bf16": {"enabled": True}})
    gc.collect()
    assert given() is None
    head = model.lm_head.weight
    assert engine.parameter_table.optimizer_parameter_of(head) is head
