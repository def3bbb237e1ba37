"""The router's product and the choice in one call of the engine."""

from __future__ import annotations

import pytest
import torch
from support.compare import assert_close, assert_same_bits

import autoep
from autoep import functional
from autoep.core.contexts import context
from autoep.core.native import engine
from autoep.functional._routing import route_options, routing_of

K = 3


def forward(
    x: torch.Tensor, router: torch.Tensor, bias: torch.Tensor | None = None, **options: object
) -> tuple[torch.Tensor, functional.Routing]:
    """The logits, and what `route` gives for them."""
    logits = torch.full((len(x), len(router)), torch.nan, dtype=x.dtype)
    routing = routing_of(logits, K)
    checked = route_options(K, **options)
    engine.router_forward(context(), checked, x, router, bias, logits, *routing)
    return logits, routing


@pytest.mark.parametrize(("tokens", "experts", "width"), [(1, 3, 1), (33, 7, 24), (70, 60, 129)])
@pytest.mark.parametrize("options", [{}, {"score": "sigmoid", "normalize": True, "scale": 2.5}])
def test_it_is_the_product_and_then_route(
    tokens: int,
    experts: int,
    width: int,
    options: dict,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> None:
    x, router, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((tokens, width), (experts, width), (experts,))
    )
    logits, routing = forward(x, router, bias, **options)
    exact = [
        [sum(a * b for a, b in zip(row, weights, strict=True)) for weights in router.tolist()]
        for row in x.tolist()
    ]
    assert_close([logits], [torch.tensor(exact, dtype=torch.float64)])
    expected = functional.route(logits, K, selection_bias=bias, **options)
    for found, wanted in zip(routing, expected, strict=True):
        assert_same_bits(found, wanted)


def test_in_bfloat16_it_is_rounded_once(generator: torch.Generator) -> None:
    x, router = (
        torch.randn(*shape, generator=generator).bfloat16() for shape in ((40, 65), (9, 65))
    )
    logits, _ = forward(x, router)
    exact = x.double() @ router.double().T
    assert ((logits.double() - exact).abs() <= (2**-8 + 1e-5) * exact.abs() + 1e-5).all()
    alone, _ = forward(x[7:8], router)
    assert torch.equal(alone, logits[7:8])


def test_counts_that_nobody_wants(generator: torch.Generator) -> None:
    x, router = (torch.randn(*shape, generator=generator) for shape in ((40, 65), (9, 65)))
    logits, routing = forward(x, router)
    again = routing_of(logits, K)
    options = route_options(K)
    engine.router_forward(context(), options, x, router, None, logits, *again[:2], None)
    for found, wanted in zip(again[:2], routing[:2], strict=True):
        assert_same_bits(found, wanted)


def test_no_tokens() -> None:
    logits, routing = forward(torch.ones(0, 5), torch.ones(4, 5))
    assert logits.shape == (0, 4)
    assert routing.tokens_per_expert.tolist() == [0] * 4


def test_what_does_not_fit_is_refused() -> None:
    x, router = torch.ones(2, 5), torch.ones(4, 5)
    with pytest.raises(autoep.InvalidArgumentError, match=r"router has shape .* with H = 5"):
        forward(x, torch.ones(4, 6))
    with pytest.raises(autoep.InvalidArgumentError, match="router is float64; expected float32"):
        forward(x, router.double())
    with pytest.raises(autoep.UnsupportedError, match=r"router's product takes no .* float16"):
        forward(x.half(), router.half())
    with pytest.raises(autoep.InvalidArgumentError, match="top_k is 3; expected 1 to the 2"):
        forward(x, router[:2])
    router[1, 2] = torch.nan
    with pytest.raises(autoep.InvalidArgumentError, match="token 0 for expert 1 is nan"):
        forward(x, router)
