"""Memory that is kept: reused when free, never before, never more than was needed at once."""

from __future__ import annotations

import errno
import gc
import mmap

import numpy
import pytest
import torch

import autoep
from autoep import functional
from autoep.core.arrays import empty
from autoep.core.host_memory import LARGE, BlockPool, pool

MIB = 1 << 20


def test_memory_is_lent_again_when_nobody_holds_it() -> None:
    blocks = BlockPool()
    first = blocks.take(8 * MIB)
    address = numpy.frombuffer(first, numpy.uint8).ctypes.data
    del first
    again = blocks.take(8 * MIB - 5)
    assert numpy.frombuffer(again, numpy.uint8).ctypes.data == address
    assert blocks.held_bytes() == 8 * MIB


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_memory_in_use_is_not_lent(library: str) -> None:
    like = torch.empty(0) if library == "torch" else numpy.empty(0, numpy.float32)
    arrays = [empty(like, (3, MIB)) for _ in range(3)]
    for number, array in enumerate(arrays):
        array[:] = number
    # A view is enough to hold it.
    part = arrays[1][1, 5:9]
    del arrays[1], array
    gc.collect()
    other = empty(like, (3, MIB))
    other[:] = 7
    assert part.tolist() == [1.0] * 4
    assert float(arrays[0].min()) == float(arrays[0].max()) == 0
    assert float(arrays[1].min()) == float(arrays[1].max()) == 2


def test_the_pool_holds_no_more_than_was_in_use_at_once() -> None:
    blocks = BlockPool()
    held = [blocks.take(size * MIB) for size in (4, 8, 16)]
    assert blocks.held_bytes() == 28 * MIB
    del held[0], held[0]
    for size in (6, 10, 12):
        blocks.take(size * MIB)
        assert blocks.held_bytes() <= 28 * MIB
    del held
    assert blocks.take(28 * MIB) is not None
    assert blocks.held_bytes() == 28 * MIB


def test_memory_that_is_refused_leaves_the_pool_as_it_was() -> None:
    blocks = BlockPool()
    kept, _ = blocks.take(8 * MIB), blocks.take(4 * MIB)
    del _
    with pytest.raises(autoep.OutOfMemoryError, match=f"{1 << 61} bytes .* 8388608 .* in use"):
        blocks.take(1 << 61)
    assert blocks.held_bytes() == 8 * MIB
    # What could not be had is not remembered as having been in use.
    blocks.take(4 * MIB)
    blocks.take(3 * MIB)
    assert blocks.held_bytes() <= 12 * MIB
    del kept


def test_idle_memory_goes_before_new_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BlockPool()
    held = [blocks.take(8 * MIB), blocks.take(4 * MIB)]
    del held[0]
    system = mmap.mmap

    def scarce(number: int, size: int, **options: int) -> mmap.mmap:
        if blocks.held_bytes() + size > 12 * MIB:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return system(number, size, **options)

    monkeypatch.setattr(mmap, "mmap", scarce)
    held.append(blocks.take(2 * MIB))
    assert blocks.held_bytes() == 6 * MIB
    with pytest.raises(autoep.OutOfMemoryError):
        held.append(blocks.take(8 * MIB))


def test_small_arrays_are_left_to_their_library() -> None:
    before = pool.held_bytes()
    kept = empty(torch.empty(0), (LARGE // 4 - 1,))
    assert pool.held_bytes() == before
    assert kept.shape == (LARGE // 4 - 1,)


def test_a_second_step_takes_no_new_memory() -> None:
    x = torch.randn(1024, 64, requires_grad=True)
    idx = torch.arange(4096).remainder(8).view(1024, 4)
    weights = torch.rand(1024, 4, requires_grad=True)
    gate_up = torch.randn(8, 1024, 64, requires_grad=True)
    down = torch.randn(8, 64, 512, requires_grad=True)

    def step() -> None:
        functional.experts(x, idx, weights, gate_up, down).sum().backward()
        for tensor in (x, weights, gate_up, down):
            tensor.grad = None

    step()
    held = pool.held_bytes()
    assert held > 0
    blocks = {id(block) for block in pool._blocks}
    for _ in range(3):
        step()
    assert pool.held_bytes() == held
    assert {id(block) for block in pool._blocks} == blocks


def test_a_backward_works_in_the_gradient_of_gate_up(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = BlockPool()
    monkeypatch.setattr("autoep.core.arrays.pool", blocks)
    x = torch.randn(2048, 256, requires_grad=True)
    idx = torch.arange(4096).remainder(16).view(2048, 2)
    weights = torch.rand(2048, 2, requires_grad=True)
    gate_up = torch.randn(16, 512, 256, requires_grad=True)
    down = torch.randn(16, 256, 256, requires_grad=True)
    y = functional.experts(x, idx, weights, gate_up, down)
    forward = blocks.held_bytes()
    # The pre-activation, and little else; the results of the experts are scratch memory.
    saved = 4096 * 512 * 4
    assert y.nbytes + saved <= forward <= y.nbytes + saved + 4096 * 256 * 4 + 2 * MIB
    y.sum().backward()
    # There is no workspace: the rest is worked in what the forward saved, and in the gradients.
    assert blocks.held_bytes() == forward + x.nbytes + gate_up.nbytes + down.nbytes


def some_experts() -> tuple[torch.Tensor, list[torch.Tensor]]:
    """A layer's result, and what it is differentiable by."""
    generator = torch.Generator().manual_seed(5)
    shapes = ((40, 16), (40, 2), (4, 24, 16), (4, 16, 12))
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    idx = torch.arange(80).remainder(4).view(40, 2)
    return functional.experts(inputs[0], idx, *inputs[1:]), inputs


def test_what_is_read_again_is_not_worked_in() -> None:
    y, inputs = some_experts()
    first, again = (torch.autograd.grad(y.sum(), inputs, retain_graph=True) for _ in range(2))
    last = torch.autograd.grad(y.sum(), inputs)
    assert all(map(torch.equal, first, again))
    assert all(map(torch.equal, first, last))


def test_what_a_hook_of_the_script_was_given_is_not_worked_in() -> None:
    given = []

    def give(tensor: torch.Tensor) -> torch.Tensor:
        given.append((tensor.detach(), tensor.detach().clone()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(give, lambda tensor: tensor):
        y, _ = some_experts()
    y.sum().backward()
    assert given
    assert all(torch.equal(tensor, before) for tensor, before in given)


def test_a_backward_after_one_that_failed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    y, _ = some_experts()

    class Failing:
        def layer_backward(self, *_: object) -> None:
            raise autoep.CommunicationError("a rank is gone")

    with monkeypatch.context() as context:
        context.setattr("autoep.functional._experts.engine", Failing())
        with pytest.raises(autoep.CommunicationError):
            y.sum().backward()
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


def test_nothing_is_worked_in_where_torch_cannot_tell_of_hooks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y, inputs = some_experts()
    expected = torch.autograd.grad(y.sum(), inputs)
    monkeypatch.setattr("autoep.functional._saved._top_hooks", None)
    y, inputs = some_experts()
    assert not y.grad_fn.is_saved_ours
    assert all(map(torch.equal, torch.autograd.grad(y.sum(), inputs), expected))


@pytest.mark.parametrize("tokens", [16, LARGE // 128])
def test_a_result_of_any_size_may_be_changed_in_place(tokens: int) -> None:
    x = torch.randn(tokens, 32, requires_grad=True)
    idx = torch.arange(2 * tokens).remainder(4).view(tokens, 2)
    inputs = (x, idx, torch.rand(tokens, 2), torch.randn(4, 32, 32), torch.randn(4, 32, 16))
    results = []
    for in_place in (False, True):
        y = functional.experts(*inputs)
        y = y.view(2, -1, 32).mul_(x.view(2, -1, 32)) if in_place else y * x
        results.append(torch.autograd.grad(y.square().sum(), x)[0])
        with torch.no_grad():
            frozen = functional.experts(*inputs)
        frozen += x
        assert frozen.requires_grad
    assert torch.equal(*results)


@pytest.mark.parametrize("tokens", [16, LARGE // 128])
def test_results_are_in_host_memory_whatever_torchs_default_is(tokens: int) -> None:
    x = torch.randn(tokens, 32, requires_grad=True)
    idx = torch.arange(2 * tokens).remainder(4).view(tokens, 2)
    weights, gate_up, down = torch.rand(tokens, 2), torch.randn(4, 32, 32), torch.randn(4, 32, 16)
    with torch.device("meta"):
        y = functional.experts(x, idx, weights, gate_up, down)
        y.sum().backward()
    assert y.is_cpu
    assert x.grad.is_cpu


def test_gradients_on_kept_memory_behave_as_others() -> None:
    weight = torch.nn.Parameter(torch.randn(8, 512, 256))
    rows = torch.randn(64, 256)
    counts = torch.full((8,), 8)
    for _ in range(2):
        functional.grouped_gemm(rows, weight, counts).square().sum().backward()
    once = torch.autograd.grad(
        functional.grouped_gemm(rows, weight, counts).square().sum(), weight
    )[0]
    torch.testing.assert_close(weight.grad, 2 * once)
    torch.optim.AdamW([weight], foreach=True).step()
    assert weight.grad.untyped_storage().nbytes() >= weight.grad.nbytes


def test_brief_memory_is_on_an_idle_block_of_any_size() -> None:
    blocks = BlockPool()
    large = blocks.take(64 << 20)
    del large
    held = blocks.held_bytes()
    brief = blocks.take(4 << 20, brief=True)
    assert blocks.held_bytes() == held, "the large block was lent, and not let go of"
    del brief
    kept = blocks.take(4 << 20)
    assert len(kept) < 8 << 20, "what stays has a block of its own"
