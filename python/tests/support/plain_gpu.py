"""The engine's experts on one GPU, in plain torch on the CPU, to test the operators with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoep import _options
from autoep.functional import _experts, _local_experts, _moe
from support import reference

_Tensors = tuple[torch.Tensor | None, ...]


def name_of(number: int, names: dict[Any, int]) -> str:
    return next(name for name, known in names.items() if known == number)


class PlainGPU:
    """Stands for the extension; keeps what each call was given."""

    def __init__(self) -> None:
        self.forwards: list[dict[str, Any]] = []
        self.backwards: list[dict[str, Any]] = []

    def local_experts_describe(
        self, _context: Any, config: tuple, tokens: int, top_k: int
    ) -> tuple[int, int, int, int]:
        return 8 * tokens * top_k, 7, 9, 11

    def local_experts_forward(
        self,
        _context: Any,
        config: tuple,
        weights: _Tensors,
        x: torch.Tensor,
        topk_idx: torch.Tensor,
        topk_weights: torch.Tensor,
        routing: torch.Tensor,
        hidden: torch.Tensor,
        tokens_per_expert: torch.Tensor | None,
        y: torch.Tensor,
        workspace: torch.Tensor,
    ) -> None:
        given = (*weights, x, topk_idx, topk_weights)
        self._check(given, (routing, hidden, y), workspace, 7)
        self.forwards.append({"config": config, "x": x})
        y.copy_(self._experts(config, weights, x, topk_idx, topk_weights))
        flat = topk_idx.long().flatten()
        routing.zero_()
        routing[: 8 * flat.numel()].copy_(flat.view(torch.uint8))
        hidden.fill_(1.0)
        if tokens_per_expert is not None:
            tokens_per_expert.copy_(flat.bincount(minlength=config[0]))

    def local_experts_backward(
        self,
        _context: Any,
        config: tuple,
        weights: _Tensors,
        grad_y: torch.Tensor,
        x: torch.Tensor,
        topk_weights: torch.Tensor,
        routing: torch.Tensor,
        hidden: torch.Tensor,
        grad_hidden: torch.Tensor,
        activated: torch.Tensor,
        grad_x: torch.Tensor | None,
        grad_topk_weights: torch.Tensor | None,
        grad_weights: _Tensors,
        accumulate: bool,
        scratch: torch.Tensor,
        workspace: torch.Tensor,
    ) -> None:
        out = (grad_x, grad_topk_weights, *grad_weights)
        between = (grad_hidden, activated)
        self._check(
            (*weights, grad_y, x, topk_weights, routing, hidden), (*out, *between), workspace, 9
        )
        assert (hidden == 1.0).all()
        assert grad_hidden.shape == hidden.shape
        assert activated.shape == (len(hidden), weights[2].shape[2 if config[6] == 1 else 1])
        assert scratch.dtype == torch.uint8
        assert scratch.numel() >= 11
        scratch.fill_(255)
        for tensor in between:
            tensor.data.fill_(torch.nan)  # unseen by torch, as a kernel writes
        self.backwards.append(
            {
                "wanted": [o is not None for o in out],
                "accumulate": accumulate,
                "in place": grad_hidden.data_ptr() == hidden.data_ptr(),
                "borrowed": grad_weights[0] is not None
                and activated.data_ptr() == grad_weights[0].data_ptr(),
                "scratch in grad_x": grad_x is not None and scratch.data_ptr() == grad_x.data_ptr(),
            }
        )
        topk_idx = routing[: 8 * topk_weights.numel()].view(torch.long).view(topk_weights.shape)
        with torch.enable_grad():
            leaves = [
                None if t is None else t.clone().requires_grad_()
                for t in (x, topk_weights, *weights)
            ]
            y = self._experts(config, tuple(leaves[2:]), leaves[0], topk_idx, leaves[1])
            there = [leaf for leaf in leaves if leaf is not None]
            grads = iter(torch.autograd.grad(y, there, grad_y, materialize_grads=True))
        for index, (leaf, place) in enumerate(zip(leaves, out, strict=True)):
            gradient = None if leaf is None else next(grads)
            if place is not None:
                assert gradient is not None
                place.copy_(place + gradient if accumulate and index >= 2 else gradient)

    def _experts(
        self, config: tuple, weights: _Tensors, x: Any, topk_idx: Any, topk_weights: Any
    ) -> torch.Tensor:
        return reference.experts(
            *(x, topk_idx, topk_weights.to(x.dtype), weights[0], weights[2]),
            gate_up_bias=weights[1],
            down_bias=weights[3],
            activation=name_of(config[4], _options.ACTIVATIONS),
            gate=name_of(config[5], _options.GATES),
            layout=name_of(config[6], _options.LAYOUTS),
            score_apply=name_of(config[7], _options.SCORE_APPLIES),
            swiglu_alpha=config[8],
            swiglu_limit=config[9],
        )

    def _check(self, given: _Tensors, out: _Tensors, workspace: torch.Tensor, size: int) -> None:
        """What the extension wants of memory."""
        assert workspace.dtype == torch.uint8
        assert workspace.numel() == size
        for tensor in (*given, *out):
            assert tensor is None or (tensor.is_contiguous() and not tensor.requires_grad)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> PlainGPU:
    """`functional.experts` and `moe` take CPU tensors for a GPU's."""
    plain = PlainGPU()
    monkeypatch.setattr(_local_experts, "engine", plain)
    for module in (_experts, _moe):
        monkeypatch.setattr(module, "on_gpu", lambda _: True)
    return plain
