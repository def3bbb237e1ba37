"""`functional.moe` beside the operations that it is made of."""

from __future__ import annotations

import itertools
from typing import Any

import numpy
import pytest
import torch
from support.compare import assert_close, assert_same_bits
from support.moe import (
    COMPUTING,
    LEAVES,
    ROUTING,
    E,
    H,
    K,
    apart,
    assert_same,
    inputs,
    results,
    together,
)
from support.watched_engine import WatchedEngine

import autoep
from autoep import functional


@pytest.fixture
def one_operation(watched: WatchedEngine, monkeypatch: pytest.MonkeyPatch) -> WatchedEngine:
    """`moe` does on the CPU what it does on a GPU."""
    monkeypatch.setattr("autoep.functional._moe.on_gpu", lambda _: True)
    return watched


@pytest.mark.parametrize(("routing", "computing"), [({}, {}), (ROUTING, COMPUTING)])
def test_it_is_its_parts_together(routing: dict[str, Any], computing: dict[str, Any]) -> None:
    given = inputs()
    bias = torch.linspace(-1.0, 1.0, E)
    for others in ({}, {"selection_bias": bias}):
        found, expected = (
            results(call(given, routing, computing, **others), list(given.values()))
            for call in (together, apart)
        )
        for a, e in zip(found, expected, strict=True):
            assert_same_bits(a, e)


@pytest.mark.parametrize(("routing", "computing"), [({}, {}), (ROUTING, COMPUTING)])
def test_one_operation_gives_the_same(
    one_operation: WatchedEngine, routing: dict[str, Any], computing: dict[str, Any]
) -> None:
    given = inputs(torch.float32)
    leaves = list(given.values())
    found = results(together(given, routing, computing), leaves)
    assert_same(found, results(apart(given, routing, computing), leaves))
    assert one_operation.backwards[0]["in place"]


def test_one_operation_computes_the_gradients_that_are_wanted(one_operation: WatchedEngine) -> None:
    given = inputs(torch.float32)
    expected = dict(
        zip(
            LEAVES,
            torch.autograd.grad(together(given, {}, {}).y.sum(), given.values()),
            strict=True,
        )
    )
    for count in range(1, len(LEAVES)):
        for wanted in itertools.combinations(LEAVES, count):
            for name in LEAVES:
                given[name].requires_grad_(name in wanted)
            gradients = torch.autograd.grad(
                together(given, {}, {}).y.sum(), [given[name] for name in wanted]
            )
            for name, gradient in zip(wanted, gradients, strict=True):
                assert_same_bits(gradient, expected[name])
    with torch.no_grad():
        assert not together(given, {}, {}).y.requires_grad


def test_an_auxiliary_loss_alone(one_operation: WatchedEngine) -> None:
    given = inputs(torch.float32)
    logits = together(given, {}, {}).logits
    plain = torch.nn.functional.linear(given["x"], given["router"])
    names = [given["x"], given["router"]]
    found, expected = (torch.autograd.grad(each.exp().sum(), names) for each in (logits, plain))
    assert_close(list(found), list(expected))


@pytest.mark.parametrize("dynamic", [False, True])
def test_one_operation_compiles_without_a_break(
    one_operation: WatchedEngine, dynamic: bool
) -> None:
    given = inputs(torch.float32)

    def block(x: torch.Tensor, **others: torch.Tensor) -> tuple:
        return tuple(together({"x": x * 2, **others}, ROUTING, {}))

    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    found, expected = (
        results(functional.MoE(*call(**given)), list(given.values())) for call in (compiled, block)
    )
    assert_same(found, expected)


def test_another_thread_that_begins_to_compile(
    one_operation: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch tells of a compiler is of the whole process."""
    given = inputs(torch.float32)
    expected = together(given, {}, {})
    answers = iter([False])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: next(answers, True))
    for found, wanted in zip(together(given, {}, {}), expected, strict=True):
        assert_same_bits(found.detach(), wanted.detach())


def test_numpy() -> None:
    given = {name: tensor.detach().numpy() for name, tensor in inputs().items()}
    found = functional.moe(**given, top_k=K)
    assert isinstance(found.y, numpy.ndarray)
    expected = together(inputs(), {}, {})
    assert_same_bits(torch.from_numpy(found.topk_idx), expected.topk_idx)
    assert_close([torch.from_numpy(found.y)], [expected.y.detach()])


def test_tensors_of_other_shapes_are_refused(one_operation: WatchedEngine) -> None:
    given = inputs(torch.float32)
    for name in LEAVES:
        with pytest.raises(autoep.InvalidArgumentError, match=f"^{name}: expected . dimensions"):
            together({**given, name: given[name][None]}, {}, {})
    with pytest.raises(autoep.InvalidArgumentError, match=r"^router: expected the library of x"):
        together({**given, "router": given["router"].detach().numpy()}, {}, {})
    with pytest.raises(autoep.InvalidArgumentError, match=r"^router: expected a row .* 5 .* got 6"):
        together({**given, "router": torch.ones(E + 1, H)}, {}, {})
    with pytest.raises(autoep.InvalidArgumentError, match=r"router has shape .* with H = 8"):
        together({**given, "router": given["router"][:, :-1]}, {}, {})
    with pytest.raises(autoep.InvalidArgumentError, match="router is float64; expected float32"):
        together({**given, "router": given["router"].double()}, {}, {})


def test_a_selection_bias_of_another_kind_is_refused(one_operation: WatchedEngine) -> None:
    given = inputs(torch.float32)
    with pytest.raises(autoep.InvalidArgumentError, match=r"^selection_bias: expected the library"):
        together(given, {}, {}, selection_bias=numpy.ones(E))
    with pytest.raises(autoep.InvalidArgumentError, match="selection_bias: expected 1 dim"):
        together(given, {}, {}, selection_bias=torch.ones(1, E))


def test_a_backward_after_one_that_failed_is_refused(
    one_operation: WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = together(inputs(torch.float32), {}, {}).y

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as context:
        context.setattr("autoep.functional._torch_layer.run_route_backward", fail)
        with pytest.raises(MemoryError):
            y.sum().backward()
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()
