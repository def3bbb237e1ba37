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


def backward(kind, gate, hidden, grad_out, routing, in_place=False):
    """Returns grad_hidden, activated and grad_topk_weights."""
    slot_of_row, weights, offsets, grad_rows, bias = routing
    num_rows, width = grad_out.shape
    defines = {
        **defines_of(kind, gate, hidden.dtype, width, H),
        "WEIGHT": kernels.CODES[weights.dtype if weights is not None else None],
        "DOWN_BIAS": int(bias is not None),
    }
    vector = defines["VECTOR"]
    grad_hidden = poisoned(*hidden.shape, dtype=hidden.dtype)
    if in_place:
        activated = poisoned(num_rows, width, dtype=hidden.dtype)
        activated.copy_(grad_out)
        grad_out = activated
    else:
        activated = poisoned(num_rows, width, dtype=hidden.dtype)
    grad_weights = None if weights is None else poisoned(num_rows, dtype=weights.dtype)
    inputs = (hidden, grad_out, slot_of_row, weights, offsets, grad_rows, bias)
    tensors = (*inputs, grad_hidden, activated, grad_weights)
    launch(
        *("activate_backward", "activate_backward", (3,), 64),
        (*tensors, num_rows, E, width // vector, H // vector, ALPHA, LIMIT),
        shared_bytes=8,
        **defines,
    )
    return grad_hidden, activated, grad_weights


# Each activation and gate in f32 weights; each type of weights, and a bias, with SwiGLU.
BACKWARDS = [
    *((kind, gate, torch.float32, False) for kind, gate in KINDS),
    (SILU, CONCATENATED, None, False),
    *((SILU, CONCATENATED, weight_dtype, True) for weight_dtype in TYPES),
]


@pytest.mark.parametrize(("kind", "gate", "weight_dtype", "with_bias"), BACKWARDS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_activate_backward(shape, dtype, kind, gate, weight_dtype, with_bias) -> None:
    in_use, num_rows, width = shape
    hidden = lab.random(num_rows, width * (1 if gate == NO_GATE else 2), dtype=dtype)
    grad_out = lab.random(num_rows, width, dtype=dtype, seed=1)
    slot_of_row = torch.randperm(num_rows, generator=torch.Generator().manual_seed(4)).int()
    slot_of_row = slot_of_row.to(lab.DEVICE)
    weights = None if weight_dtype is None else lab.random(num_rows, dtype=weight_dtype, seed=2)
    counts = torch.tensor([0, in_use // 2, 0, in_use - in_use // 2])
    offsets = torch.cat([torch.zeros(1), counts.cumsum(0)]).int().to(lab.DEVICE)
    grad_rows = lab.random(num_rows, H, dtype=dtype, seed=5)
    bias = lab.random(E, H, dtype=dtype, seed=6) if with_bias else None
    routing = (slot_of_row, weights, offsets, grad_rows, bias)
    results = backward(kind, gate, hidden, grad_out, routing)

    used = slice(0, in_use)
    slots = slot_of_row[used].long()
    scale = torch.ones(num_rows) if weights is None else weights.double()
    scale = scale.to(lab.DEVICE)[slots].unsqueeze(-1)
    wide_hidden = hidden[used].double().requires_grad_()
    value = reference(kind, gate, wide_hidden)
    value.backward(scale * grad_out[used].double())
    assert_close(results[0][used], wide_hidden.grad)
    assert_close(results[1][used], scale * value.detach())
    if weights is not None:
        expected = torch.zeros(num_rows, dtype=torch.float64, device=lab.DEVICE)
        expected[slots] = (grad_out[used].double() * value.detach()).sum(-1)
        if bias is not None:
            experts = torch.repeat_interleave(torch.arange(E), counts).to(lab.DEVICE)
            expected[slots] += (grad_rows[used].double() * bias[experts].double()).sum(-1)
        assert_close(results[2], expected)
    for again in (False, True):
        repeated = backward(kind, gate, hidden, grad_out, routing, in_place=again)
        assert_same_bits(repeated[0][used], results[0][used])
        assert_same_bits(repeated[1][used], results[1][used])
        if weights is not None:
            assert_same_bits(repeated[2], results[2])
