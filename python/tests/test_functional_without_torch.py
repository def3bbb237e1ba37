"""numpy alone: no torch is needed, and none is imported."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, NoTorch())

import numpy
from autoep import functional
from autoep.distributed.communicator import Communicator

random = numpy.random.default_rng(3)
T, H, F, E, K = 9, 8, 6, 4, 2
logits, x = random.standard_normal((T, E)), random.standard_normal((T, H))
gate_up, down = random.standard_normal((E, 2 * F, H)), random.standard_normal((E, H, F))

routing = functional.route(logits, K, normalize=True)
probabilities = numpy.exp(logits) / numpy.exp(logits).sum(1, keepdims=True)
idx = numpy.argsort(-probabilities, axis=1)[:, :K]
weights = numpy.take_along_axis(probabilities, idx, 1)
weights /= weights.sum(1, keepdims=True)
assert (routing.topk_idx == idx).all()
assert numpy.allclose(routing.topk_weights, weights, rtol=1e-12)

def expert(e, v):
    gate, up = numpy.split(gate_up[e] @ v, 2)
    return down[e] @ (gate / (1 + numpy.exp(-gate)) * up)

def layer(x):
    return numpy.stack(
        [sum(w * expert(e, v) for e, w in zip(*row)) for v, *row in zip(x, idx, weights)]
    )

y = functional.experts(x, routing.topk_idx, routing.topk_weights, gate_up, down)
assert isinstance(y, numpy.ndarray) and y.dtype == numpy.float64
assert numpy.linalg.norm(y - layer(x)) <= 1e-12 * numpy.linalg.norm(y)

permuted = functional.permute(x, routing.topk_idx, E)
rows = functional.grouped_gemm(permuted.rows, gate_up, permuted.tokens_per_expert)
assert rows.shape == (T * K, 2 * F)
back = functional.unpermute(permuted.rows, permuted.row_of_slot, routing.topk_weights)
assert numpy.allclose(back, x, rtol=1e-12)
assert (functional.all_to_all(x, [T], comm=Communicator.alone()) == x).all()
assert functional.router_z_loss(logits) > 0
assert functional.jitter(x, 0.1, 1).shape == x.shape

# The gradients by finite differences.
plan = functional.experts_plan(
    idx, num_experts=E, hidden_size=H, ffn_size=F, dtype="float64"
)
_, saved = functional.experts_forward(x, weights, gate_up, down, plan=plan)
grad_y = random.standard_normal((T, H))
gradients = functional.experts_backward(grad_y, saved)
step, direction = 1e-6, random.standard_normal((T, H))
slope = ((layer(x + step * direction) - layer(x - step * direction)) * grad_y).sum() / step / 2
assert abs((gradients.x * direction).sum() - slope) <= 1e-7 * abs(slope)
assert gradients.gate_up.shape == gate_up.shape

assert "torch" not in sys.modules
print("passed")
"""


def test_numpy_needs_no_torch() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0 and result.stdout == "passed\n", result.stderr
