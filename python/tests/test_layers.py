"""How long the engine's layers are kept, and by what."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from typing import Any

import pytest
import torch
from support.ranks import run_ranks

import autoep
from autoep import functional
from autoep.core.contexts import context
from autoep.core.native import engine
from autoep.core.options import ExpertsOptions, experts_options
from autoep.distributed.communicator import Communicator
from autoep.functional import _layer_handles
from autoep.functional._experts import ExpertsWeights, options_of
from autoep.functional._layer_handles import Layers, layer_of

LIKE = torch.empty(0)


def options(ffn_size: int = 12) -> ExpertsOptions:
    return experts_options(4, 2, 8, ffn_size, "float32")


def test_a_layer_is_made_once_per_communicator_and_options() -> None:
    first, second = Communicator.alone(), Communicator.alone()
    alone = layer_of(LIKE, options(), None)
    assert layer_of(LIKE, options(), None) is alone
    assert layer_of(LIKE, options(13), None) is not alone
    own = layer_of(LIKE, options(), first)
    assert own is not alone
    assert layer_of(LIKE, options(), first) is own
    assert layer_of(LIKE, options(), second) is not own


def test_they_are_kept_in_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_layer_handles, "_MOST_LAYERS", 64)
    comm = Communicator.alone()
    made = [layer_of(LIKE, options(size), comm) for size in range(1, 100)]
    assert len(comm.layers._known) == 64
    assert layer_of(LIKE, options(99), comm) is made[-1]
    assert layer_of(LIKE, options(1), comm) is not made[0]
    # One that is not kept any more works for those that hold it.
    assert made[0].workspace(LIKE, 3).forward > 0


def test_sizes_are_remembered_in_a_bounded_number() -> None:
    layer = layer_of(LIKE, options(), Communicator.alone())
    for tokens in range(1000):
        layer.workspace(LIKE, tokens)
    assert len(layer._workspaces) <= _layer_handles._MOST_SIZES


def test_they_go_with_their_communicator() -> None:
    comm = Communicator.alone()
    kept = weakref.ref(layer_of(LIKE, options(), comm))
    layers = weakref.ref(comm.layers)
    del comm
    gc.collect()
    assert kept() is None
    assert layers() is None


def test_a_closed_communicator_has_no_layers() -> None:
    comm = Communicator.alone()
    layer = layer_of(LIKE, options(), comm)
    comm.close()
    assert not layer.handle.is_open
    with pytest.raises(autoep.InvalidHandleError, match="the communicator was closed"):
        layer_of(LIKE, options(), comm)


def test_they_keep_no_context() -> None:
    """A context is freed with its last reference, however many calls it has made."""
    x = torch.randn(5, 8, requires_grad=True)
    weights = torch.rand(5, 2, requires_grad=True)
    idx = torch.arange(10).remainder(4).view(5, 2)
    gate_up, down = torch.randn(4, 24, 8), torch.randn(4, 8, 12)
    y = functional.experts(x, idx, weights, gate_up, down)
    held = context()
    threads = functional.num_threads()
    try:
        functional.set_num_threads(1)
        assert not [holder for holder in gc.get_referrers(held) if holder is not locals()]
        # The backward is of another context of the same device.
        held.close()
        y.sum().backward()
    finally:
        functional.set_num_threads(threads)
    assert x.grad.any()


def test_a_forked_child_makes_its_own() -> None:
    """Also of a communicator, and without using what it inherits."""
    comm = Communicator.alone()
    inherited = [layer_of(LIKE, options(), None), layer_of(LIKE, options(), comm)]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            is_fresh = layer_of(LIKE, options(), None) is not inherited[0]
            try:
                layer_of(LIKE, options(), comm)
            except autoep.InvalidHandleError as error:
                code = 0 if is_fresh and "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert layer_of(LIKE, options(), None) is inherited[0]


def test_a_forked_child_computes() -> None:
    x, idx = torch.ones(3, 8), torch.zeros(3, 2, dtype=torch.int32)
    given = (x, idx, torch.ones(3, 2), torch.ones(4, 24, 8), torch.ones(4, 8, 12))
    expected = functional.experts(*given)
    child = os.fork()
    if child == 0:
        try:
            same = torch.equal(functional.experts(*given), expected)
        finally:
            os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_share_them() -> None:
    layers = Layers(None)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(layers.get(LIKE, options()))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_a_pass_outlives_its_communicator() -> None:
    """The engine's layer holds what it exchanges rows over."""
    x = torch.randn(2, 4, 8)

    def body(comm: Communicator) -> torch.Tensor:
        own = x[comm.rank].clone().requires_grad_()
        idx = torch.arange(8).remainder(4).view(4, 2)
        y = functional.experts(
            own,
            idx,
            torch.ones(4, 2),
            torch.ones(2, 24, 8),
            torch.ones(2, 8, 12),
            num_experts=4,
            comm=Communicator(comm.handle),
        )
        gc.collect()
        y.sum().backward()
        return own.grad

    assert all(gradient.any() for gradient in run_ranks(2, body))


def test_weights_are_not_copied_to_learn_their_shape() -> None:
    """A copy of these would take a terabyte."""
    gate_up = torch.empty(1, 1, 1).expand(1024, 2 * 2**14, 2**14)
    down = torch.empty(1, 1, 1).expand(1024, 2**14, 2**14)
    weights = ExpertsWeights(gate_up, None, down, None)
    found = options_of(torch.empty(3, 2**14), 2, weights, None, None, {})
    assert found.num_experts == 1024
    assert (found.hidden_size, found.ffn_size) == (2**14, 2**14)


def test_handles_are_of_their_kind() -> None:
    layer = layer_of(LIKE, options(), None)
    with pytest.raises(autoep.InvalidArgumentError, match="expected a context of the engine"):
        engine.context_num_threads(layer.handle)
    with pytest.raises(autoep.InvalidArgumentError, match="expected a layer of the engine"):
        engine.layer_workspace(context(), Communicator.alone().handle, 1, 0, 0, False, False, False)
