"""`functional.moe` on a GPU: one operation beside the ones it is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.compare import assert_close
from support.moe import COMPUTING, LEAVES, ROUTING, K, apart, assert_same, inputs, results, together
from torch.utils.checkpoint import checkpoint

from autoep import functional

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

OPTIONS = [({}, {}), ({"normalize": True}, {}), (ROUTING, COMPUTING)]


@pytest.fixture(autouse=True)
def exact_products() -> Any:
    """Plain products in float32 all the way."""
    torch.backends.cuda.matmul.allow_tf32 = False


def both(given: dict[str, torch.Tensor], call: Any, *options: Any) -> list[torch.Tensor]:
    return [t.cpu() for t in results(call(given, *options), list(given.values()))]


def layer(tokens: int = 515, dtype: torch.dtype = torch.bfloat16) -> dict[str, torch.Tensor]:
    """One that the kernels of sm_90 take, of tokens whose choice no rounding of a logit moves."""
    generator = torch.Generator("cuda").manual_seed(1)
    sizes = ((2 * tokens, 256), (16, 256), (16, 768, 256), (16, 256, 384))
    names = ("x", "router", "gate_up", "down")
    scales = (1.0, 0.3, 0.06, 0.05)
    given = {
        name: (torch.randn(*size, generator=generator, device="cuda") * scale).to(dtype)
        for name, size, scale in zip(names, sizes, scales, strict=True)
    }
    best = exact_logits(given).topk(K + 1).values
    # Logits below 32 are at most 1/16 off.
    clear = (best[:, :-1] - best[:, 1:] > 0.25).all(-1) & (best[:, 0] < 32)
    given["x"] = given["x"][clear][:tokens].clone()
    assert len(given["x"]) == tokens
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def exact_logits(given: dict[str, torch.Tensor]) -> torch.Tensor:
    return given["x"].detach().double() @ given["router"].detach().double().T


@pytest.mark.parametrize(("routing", "computing"), OPTIONS)
def test_it_is_its_parts_together(routing: dict[str, Any], computing: dict[str, Any]) -> None:
    given = inputs(torch.float32, "cuda")
    found = both(given, together, routing, computing)
    assert_same(found, both(given, apart, routing, computing))
    exact = inputs()
    assert_same(found, results(together(exact, routing, computing), list(exact.values())))


class Replaced(torch.autograd.Function):
    """Other values in the place of some, whose gradient these get."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return others.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        return grad, None


def parts(
    given: dict[str, torch.Tensor], product: Any = torch.nn.functional.linear
) -> functional.MoE:
    return apart({**dict.fromkeys(LEAVES), **given}, {"normalize": True}, {}, product)


def whole(given: dict[str, torch.Tensor]) -> functional.MoE:
    return together(given, {"normalize": True}, {})


def test_in_bfloat16_it_differs_by_the_sum_of_two_gradients_of_x() -> None:
    given = layer()
    found = both(given, whole)

    def product(x: torch.Tensor, router: torch.Tensor) -> torch.Tensor:
        return Replaced.apply(torch.nn.functional.linear(x, router), found[1].cuda())

    expected = both(given, lambda tensors: parts(tensors, product))
    for index, (a, e) in enumerate(zip(found, expected, strict=True)):
        if index == 4:
            assert (a - e).float().norm() <= 2**-8 * e.float().norm()
        else:
            assert torch.equal(a, e), index


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_logits_are_as_good_as_those_of_torch(dtype: torch.dtype) -> None:
    given = layer(dtype=dtype)
    exact = exact_logits(given)
    with torch.no_grad():
        logits, plain = whole(given).logits, torch.nn.functional.linear(given["x"], given["router"])
    assert logits.dtype == dtype
    if dtype == torch.float32:
        assert_close([logits], [exact])
    else:
        assert (logits - exact).norm() <= 1.1 * (plain - exact).norm()


def test_a_tokens_logits_depend_on_itself_alone() -> None:
    given = layer()
    with torch.no_grad():
        logits = whole(given).logits
        for count in (1, 33, 500):
            some = {**given, "x": given["x"][-count:]}
            assert torch.equal(whole(some).logits, logits[-count:])


def test_no_tokens() -> None:
    given = layer(0)
    y, logits, topk_idx, counts, *gradients = both(given, whole)
    assert (y.shape, logits.shape, topk_idx.shape) == ((0, 256), (0, 16), (0, K))
    assert counts.tolist() == [0] * 16
    assert all((gradient == 0).all() for gradient in gradients)


def test_under_autocast_it_computes_in_its_type() -> None:
    given = layer(dtype=torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        found = whole(given)
        expected = parts(given)
    assert found.y.dtype == torch.bfloat16
    assert torch.equal(found.y, expected.y)


def test_no_call_waits_for_the_device() -> None:
    given = layer()
    both(given, whole)
    torch.cuda.set_sync_debug_mode("error")
    try:
        results(whole(given), list(given.values()))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_graph_gives_the_same_bits() -> None:
    given, other = layer(), layer()
    with torch.no_grad():
        other["x"].mul_(0.7).add_(0.1)
    expected = both(other, whole)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results(whole(given), list(given.values()))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = results(whole(given), list(given.values()))
    given["x"].data.copy_(other["x"].data)
    graph.replay()
    torch.cuda.synchronize()
    for a, e in zip(captured, expected, strict=True):
        assert torch.equal(a.cpu(), e)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_break(dynamic: bool) -> None:
    def block(**tensors: torch.Tensor) -> tuple:
        return tuple(whole(tensors))

    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic)
    for tokens in (515, 96):
        given = layer(tokens)
        found, expected = (
            [t.cpu() for t in results(functional.MoE(*call(**given)), list(given.values()))]
            for call in (compiled, block)
        )
        assert torch.equal(found[2], expected[2])
        for a, e in zip(found, expected, strict=True):
            assert (a - e).float().norm() <= 2**-7 * e.float().norm().clamp(min=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_bits(reentrant: bool) -> None:
    given = layer()

    def saved(tensors: dict[str, torch.Tensor]) -> functional.MoE:
        def body(*values: torch.Tensor) -> tuple:
            return tuple(whole(dict(zip(tensors, values, strict=True))))

        return functional.MoE(*checkpoint(body, *tensors.values(), use_reentrant=reentrant))

    found, expected = [], []
    for call, into in ((saved, found), (whole, expected)):
        result = call(given)
        (result.y.square().sum() + result.logits.square().sum()).backward()
        into += [result.y, *(t.grad.clone() for t in given.values())]
        for tensor in given.values():
            tensor.grad = None
    for a, e in zip(found, expected, strict=True):
        assert torch.equal(a, e)


def test_gradients_add_up_over_micro_batches() -> None:
    given = {k: v for k, v in inputs(torch.float32, "cuda").items() if "bias" not in k}
    once = [t.cpu() for t in results(functional.moe(**given, top_k=K), list(given.values()))][4:]
    for _ in range(2):
        found = functional.moe(**given, top_k=K)
        loss = found.y.square().sum() + 0.1 * torch.logsumexp(found.logits, -1).square().sum()
        loss.backward()
    assert_close([t.grad.cpu() for t in given.values()], [2 * g for g in once])


def test_a_backward_after_one_that_failed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    y = whole(layer()).y

    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("no memory")

    with monkeypatch.context() as context:
        context.setattr("autoep.functional._torch_layer.run_route_backward", fail)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            y.sum().backward()
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()
