"""The activations and their backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as functional
from support.cuda import kernels, lab
from support.cuda.lab import assert_close, assert_same_bits, launch, poisoned

pytestmark = lab.needs_gpu

SILU, GELU, GELU_TANH, RELU_SQUARED, CLAMPED_SWIGLU, CLAMPED_SILU = 1, 2, 3, 4, 5, 6
CLAMPED = {CLAMPED_SWIGLU: 1, CLAMPED_SILU: 0}  # what is added to the up
NO_GATE, CONCATENATED, INTERLEAVED = 1, 2, 3
ALPHA, LIMIT = 1.702, 0.75
KINDS = [
    (kind, gate)
    for kind in (SILU, GELU, GELU_TANH, RELU_SQUARED, *CLAMPED)
    for gate in (NO_GATE, CONCATENATED, INTERLEAVED)
    if kind not in CLAMPED or gate != NO_GATE
]
TYPES = [torch.float32, torch.bfloat16, torch.float16]
# Rows in use of rows, and F.
SHAPES = [(0, 3, 8), (5, 9, 7), (11, 11, 264), (2, 2, 1)]
E, H = 4, 24


def reference(kind: int, gate_layout: int, hidden: torch.Tensor) -> torch.Tensor:
    """The activation in f64."""
    if gate_layout == NO_GATE:
        gate, up = hidden, None
    elif gate_layout == CONCATENATED:
        gate, up = hidden.chunk(2, -1)
    else:
        gate, up = hidden[:, 0::2], hidden[:, 1::2]
    if kind in CLAMPED:
        gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
        return (up + CLAMPED[kind]) * gate * torch.sigmoid(ALPHA * gate)
    value = {
        SILU: functional.silu,
        GELU: functional.gelu,
        GELU_TANH: lambda x: functional.gelu(x, approximate="tanh"),
        RELU_SQUARED: lambda x: functional.relu(x).square(),
    }[kind](gate)
    return value if up is None else value * up


def defines_of(kind: int, gate: int, dtype: torch.dtype, *widths: int) -> dict[str, int]:
    return {
        "ELEMENT": kernels.CODES[dtype],
        "VECTOR": lab.vector_of(dtype, *widths),
        "ACTIVATION": kind,
        "GATE": gate,
    }


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("kind", "gate"), KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_activate(shape, kind, gate, dtype) -> None:
    in_use, num_rows, width = shape
    hidden = lab.random(num_rows, width * (1 if gate == NO_GATE else 2), dtype=dtype)
    hidden[in_use:] = float("nan")
    rows_in_use = torch.tensor([in_use], dtype=torch.int32, device=lab.DEVICE)
    defines = defines_of(kind, gate, dtype, width)
    vectors = width // defines["VECTOR"]
    out = poisoned(num_rows, width, dtype=dtype)
    grid = (2, -(-vectors // 64))
    arguments = (hidden, rows_in_use, out, num_rows, vectors, ALPHA, LIMIT)
    launch("activate", "activate", grid, 256, arguments, **defines)
    assert_close(out[:in_use], reference(kind, gate, hidden[:in_use].double()))
    assert out[in_use:].isnan().all()


def test_activate_of_all_rows() -> None:
    hidden = lab.random(6, 16, dtype=torch.float32)
    out = poisoned(6, 8, dtype=torch.float32)
    defines = defines_of(SILU, CONCATENATED, torch.float32, 8)
    arguments = (hidden, None, out, 6, 2, ALPHA, LIMIT)
    launch("activate", "activate", (1, 1), 256, arguments, **defines)
    assert_close(out, reference(SILU, CONCATENATED, hidden.double()))


def test_activate_far_out() -> None:
    """No overflow, no NaN, where the exponential has left the range of f32."""
    hidden = torch.tensor([[-200.0, -90.0, 90.0, 200.0]], device=lab.DEVICE)
    for kind in (SILU, GELU, GELU_TANH):
        out = poisoned(1, 4, dtype=torch.float32)
        defines = defines_of(kind, NO_GATE, torch.float32, 4)
        launch("activate", "activate", (1, 1), 256, (hidden, None, out, 1, 1, 1.0, 1.0), **defines)
        assert_close(out, reference(kind, NO_GATE, hidden.double()))


def backward(kind, gate, hidden, grad_out, rows, in_place=False):
    """Returns grad_hidden, activated and dots."""
    weights, offsets, grad_rows, bias = rows
    num_rows, width = grad_out.shape
    defines = {
        **defines_of(kind, gate, hidden.dtype, width, H),
        "DOWN_BIAS": int(bias is not None),
    }
    vector = defines["VECTOR"]
    grad_hidden = poisoned(*hidden.shape, dtype=hidden.dtype)
    activated = poisoned(num_rows, width, dtype=hidden.dtype)
    if in_place:
        activated.copy_(grad_out)
        grad_out = activated
    dots = poisoned(num_rows, dtype=torch.float32)
    tensors = (hidden, grad_out, weights, offsets, grad_rows, bias, grad_hidden, activated, dots)
    launch(
        *("activate_backward", "activate_backward", (3,), 64),
        (*tensors, num_rows, E, width // vector, H // vector, ALPHA, LIMIT),
        shared_bytes=8,
        **defines,
    )
    return grad_hidden, activated, dots


# Each activation and gate with weights; SwiGLU without, and with a bias.
BACKWARDS = [
    *((kind, gate, True, False) for kind, gate in KINDS),
    (SILU, CONCATENATED, False, False),
    (SILU, CONCATENATED, True, True),
]


@pytest.mark.parametrize(("kind", "gate", "weighted", "with_bias"), BACKWARDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_activate_backward(shape, dtype, kind, gate, weighted, with_bias) -> None:
    in_use, num_rows, width = shape
    hidden = lab.random(num_rows, width * (1 if gate == NO_GATE else 2), dtype=dtype)
    grad_out = lab.random(num_rows, width, dtype=dtype, seed=1)
    weights = lab.random(num_rows, dtype=torch.float32, seed=2) if weighted else None
    counts = torch.tensor([0, in_use // 2, 0, in_use - in_use // 2])
    offsets = torch.cat([torch.zeros(1), counts.cumsum(0)]).int().to(lab.DEVICE)
    grad_rows = lab.random(num_rows, H, dtype=dtype, seed=5)
    bias = lab.random(E, H, dtype=dtype, seed=6) if with_bias else None
    rows = (weights, offsets, grad_rows, bias)
    results = backward(kind, gate, hidden, grad_out, rows)

    used = slice(0, in_use)
    scale = torch.ones(num_rows, device=lab.DEVICE) if weights is None else weights
    scale = scale.double()[used].unsqueeze(-1)
    wide_hidden = hidden[used].double().requires_grad_()
    value = reference(kind, gate, wide_hidden)
    value.backward(scale * grad_out[used].double())
    assert_close(results[0][used], wide_hidden.grad)
    assert_close(results[1][used], scale * value.detach())
    dots = (grad_out[used].double() * value.detach()).sum(-1)
    if bias is not None:
        experts = torch.repeat_interleave(torch.arange(E), counts).to(lab.DEVICE)
        dots += (grad_rows[used].double() * bias[experts].double()).sum(-1)
    assert_close(results[2][used], dots)
    for again in (False, True):
        repeated = backward(kind, gate, hidden, grad_out, rows, in_place=again)
        for part, first in zip(repeated, results, strict=True):
            assert_same_bits(part[used], first[used])
