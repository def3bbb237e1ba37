"""Bad input to the functional API: an exception with a helpful text, and the process lives on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import autoep
from autoep import functional
from autoep.distributed.communicator import Communicator

T, H, F, E, K = 4, 8, 6, 3, 2
HUGE = 10**30


def f32(*shape: int) -> torch.Tensor:
    return torch.ones(*shape)


IDX = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 1]])
SLOTS = torch.arange(T * K, dtype=torch.int32).view(T, K)
WEIGHTS = torch.full((T, K), 0.5)
GATE_UP, DOWN = f32(E, 2 * F, H), f32(E, H, F)


def experts(**changes: Any) -> Callable[[], Any]:
    arguments = {
        "x": f32(T, H),
        "topk_idx": IDX,
        "topk_weights": WEIGHTS,
        "gate_up": GATE_UP,
        "down": DOWN,
        **changes,
    }
    return lambda: functional.experts(**arguments)


def plan(**changes: Any) -> Callable[[], Any]:
    arguments = {
        "topk_idx": IDX,
        "num_experts": E,
        "hidden_size": H,
        "ffn_size": F,
        "dtype": "float32",
        **changes,
    }
    return lambda: functional.experts_plan(**arguments)


def route(logits: Any = None, top_k: Any = K, **options: Any) -> Callable[[], Any]:
    return lambda: functional.route(f32(T, E) if logits is None else logits, top_k, **options)


def with_nan(*shape: int) -> torch.Tensor:
    tensor = f32(*shape)
    tensor.view(-1)[-1] = torch.nan
    return tensor


# The call, and words of the text that must help.
CASES: dict[str, tuple[Callable[[], Any], str]] = {
    # Routing.
    "route-list": (route([[1.0, 2.0]]), "logits: expected a torch.Tensor or a numpy.ndarray"),
    "route-none": (lambda: functional.route(None, 1), "logits: expected .* got NoneType"),
    "route-ints": (route(torch.ones(T, E, dtype=torch.int32)), "logits"),
    "route-bool": (route(torch.ones(T, E, dtype=torch.bool)), "logits: expected float32"),
    "route-complex": (route(torch.ones(T, E, dtype=torch.complex64)), "logits: expected float32"),
    "route-1d": (route(f32(E)), r"logits: expected 2 dimensions, got shape \[3\]"),
    "route-no-experts": (route(f32(T, 0), 1), "top_k|E|expert"),
    "route-nan": (route(with_nan(T, E)), "token 3 for expert 2 is nan"),
    "route-inf": (route(torch.full((T, E), torch.inf)), "token 0 for expert 0 is inf"),
    "route-all-minus-inf": (route(torch.full((T, E), -torch.inf)), "token 0"),
    "route-misaligned": (
        lambda: functional.route(
            numpy.frombuffer(bytearray(49), numpy.float32, 12, offset=1).reshape(4, 3), 2
        ),
        "logits is not aligned",
    ),
    "route-meta": (route(torch.ones(T, E, device="meta")), "logits"),
    "route-sparse": (route(f32(T, E).to_sparse()), "logits: expected a dense tensor"),
    "top_k-zero": (route(top_k=0), "top_k: expected 1 to"),
    "top_k-negative": (route(top_k=-1), "top_k: expected 1 to"),
    "top_k-above-E": (route(top_k=E + 1), f"top_k: expected 1 to {E}, got {E + 1}"),
    "top_k-huge": (route(top_k=HUGE), "top_k: expected 1 to"),
    "top_k-float": (route(top_k=1.5), "top_k: expected an integer, got float"),
    "top_k-none": (route(top_k=None), "top_k: expected an integer, got NoneType"),
    "score-unknown": (route(score="relu"), "score: expected one of 'softmax', 'topk_softmax'"),
    "score-list": (route(score=["softmax"]), "score: expected one of"),
    "scale-text": (route(scale="big"), "scale: expected a number, got str"),
    "scale-nan": (route(scale=float("nan")), "scale: expected a finite number"),
    "scale-huge": (route(scale=10**400), "scale: expected a number"),
    "scale-zero": (route(scale=0.0), "scale"),
    "epsilon-negative": (route(normalize=True, normalize_epsilon=-1.0), "normalize_epsilon"),
    "bias-shape": (route(selection_bias=f32(E + 1)), "selection_bias"),
    "bias-numpy": (route(selection_bias=numpy.ones(E)), "selection_bias: expected the library"),
    "bias-2d": (route(selection_bias=f32(1, E)), "selection_bias: expected 1 dimensions"),
    "groups-uneven": (route(group_score="max", num_groups=2, topk_groups=1), "num_groups"),
    "groups-too-many-used": (
        route(f32(T, 4), group_score="max", num_groups=2, topk_groups=3),
        "topk_groups",
    ),
    "groups-without-score": (route(num_groups=3), "num_groups|group_score"),
    "groups-unknown": (route(group_score="mean"), "group_score: expected one of None, 'max'"),
    "sinkhorn-iterations": (route(score="sinkhorn", sinkhorn_iterations=4), "iterations"),
    "route_backward-shape": (
        lambda: functional.route_backward(f32(T, K + 1), f32(T, E), IDX.int()),
        "grad_topk_weights",
    ),
    "route_backward-idx": (
        lambda: functional.route_backward(f32(T, K), f32(T, E), IDX.int() + 100),
        "topk_idx",
    ),
    "z_loss-1d": (lambda: functional.router_z_loss(f32(3)), "logits: expected 2 dimensions"),
    "z_loss_backward-dtype": (
        lambda: functional.router_z_loss_backward(torch.tensor(1.0).double(), f32(T, E)),
        "grad_loss",
    ),
    "jitter-epsilon": (lambda: functional.jitter(f32(2, 2), 1.0, 0), "epsilon"),
    "jitter-epsilon-negative": (lambda: functional.jitter(f32(2, 2), -0.1, 0), "epsilon"),
    "jitter-seed-negative": (lambda: functional.jitter(f32(2, 2), 0.1, -1), "seed: expected 0"),
    "jitter-seed-huge": (lambda: functional.jitter(f32(2, 2), 0.1, 2**64), "seed: expected 0"),
    "jitter-f16": (lambda: functional.jitter(f32(2, 2).half(), 0.1, 0), "x"),
    # Permutation.
    "sort-out-of-range": (lambda: functional.sort_by_expert(IDX, 2), "topk_idx"),
    "sort-negative": (lambda: functional.sort_by_expert(IDX - 2, E), "topk_idx"),
    "sort-floats": (lambda: functional.sort_by_expert(IDX.float(), E), "topk_idx"),
    "sort-no-experts": (lambda: functional.sort_by_expert(IDX, 0), "num_experts: expected 1"),
    "sort-huge": (lambda: functional.sort_by_expert(IDX, HUGE), "num_experts: expected 1"),
    "permute-tokens": (lambda: functional.permute(f32(T + 1, H), IDX, E), "x|row_of_slot|T"),
    "permute-numpy-idx": (
        lambda: functional.permute(f32(T, H), IDX.numpy(), E),
        "topk_idx: expected the library of x",
    ),
    "permute-f16": (lambda: functional.permute(f32(T, H).half(), IDX, E), "x"),
    "permute_backward-rows": (
        lambda: functional.permute_backward(f32(T * K - 1, H), SLOTS),
        "grad_rows|row_of_slot",
    ),
    "unpermute-repeated-slots": (
        lambda: functional.unpermute_backward(f32(T, H), None, SLOTS * 0),
        "row_of_slot",
    ),
    "unpermute-slot-out-of-range": (
        lambda: functional.unpermute(f32(T * K, H), SLOTS + 1000),
        "row_of_slot",
    ),
    "unpermute-slot-negative": (
        lambda: functional.unpermute(f32(T * K, H), SLOTS - 2),
        "row_of_slot",
    ),
    "unpermute-weights-shape": (
        lambda: functional.unpermute(f32(T * K, H), SLOTS, f32(T, K + 1)),
        "topk_weights",
    ),
    "unpermute-weights-ints": (
        lambda: functional.unpermute(f32(T * K, H), SLOTS, IDX),
        "topk_weights",
    ),
    "unpermute_backward-no-rows": (
        lambda: functional.unpermute_backward(f32(T, H), None, SLOTS, WEIGHTS),
        "rows",
    ),
    # Grouped GEMM.
    "gemm-sum": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H), [2, 2]),
        "rows_per_group",
    ),
    "gemm-negative": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H), [6, -1]),
        r"rows_per_group\[1\]: expected 0",
    ),
    "gemm-negative-tensor": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H), torch.tensor([6, -1])),
        "rows_per_group",
    ),
    "gemm-overflow": (
        lambda: functional.grouped_gemm(
            f32(5, H), f32(2, 7, H), torch.tensor([2**63 - 1, 2**63 - 1])
        ),
        "rows_per_group",
    ),
    "gemm-huge": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H), [HUGE, 0]),
        r"rows_per_group\[0\]: expected 0",
    ),
    "gemm-groups": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H), [2, 2, 1]),
        "rows_per_group|weights",
    ),
    "gemm-inner": (
        lambda: functional.grouped_gemm(f32(5, H + 1), f32(2, 7, H), [2, 3]),
        "rows|weights",
    ),
    "gemm-dtypes": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H).double(), [2, 3]),
        "weights",
    ),
    "gemm-layout": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H), [2, 3], layout="wide"),
        "layout: expected one of 'out_in', 'in_out'",
    ),
    "gemm-groups-text": (
        lambda: functional.grouped_gemm(f32(5, H), f32(2, 7, H), "23"),
        "rows_per_group: expected a sequence of integers, got str",
    ),
    "gemm_backward-shape": (
        lambda: functional.grouped_gemm_backward(f32(5, 6), f32(5, H), f32(2, 7, H), [2, 3]),
        "rows|weights|grad_out",
    ),
    # All-to-all.
    "all_to_all-no-comm": (
        lambda: functional.all_to_all(f32(2), [2], comm=None),
        "comm: expected a Communicator, got NoneType",
    ),
    "all_to_all-scalar": (
        lambda: functional.all_to_all(torch.tensor(1.0), [1], comm=Communicator.alone()),
        "dimension",
    ),
    "all_to_all-list": (
        lambda: functional.all_to_all([1.0], [1], comm=Communicator.alone()),
        "x: expected a torch.Tensor",
    ),
    "all_to_all-counts": (
        lambda: functional.all_to_all(f32(2), [1, 1], [1, 1], comm=Communicator.alone()),
        "send_rows: expected one count for each of the 1 ranks, got 2",
    ),
    "all_to_all-sum": (
        lambda: functional.all_to_all(f32(2), [3], [3], comm=Communicator.alone()),
        "send",
    ),
    "all_to_all-negative": (
        lambda: functional.all_to_all(f32(2), [-2], comm=Communicator.alone()),
        r"send_rows\[0\]: expected 0",
    ),
    "all_to_all-text": (
        lambda: functional.all_to_all(f32(2), 2, comm=Communicator.alone()),
        "send_rows: expected a sequence of integers, got int",
    ),
    "local-zero": (lambda: Communicator.local(0), "size"),
    "local-negative": (lambda: Communicator.local(-3), "size: expected 0"),
    "local-huge": (lambda: Communicator.local(10**6), "size: expected at most"),
    "timeout-negative": (lambda: Communicator.local(2, -1.0), "timeout"),
    "timeout-nan": (lambda: Communicator.local(2, float("nan")), "timeout: expected a finite"),
    # Experts.
    "experts-x-dtype": (experts(x=f32(T, H).double()), "gate_up"),
    "experts-x-ints": (experts(x=IDX), "dtype: expected one of 'float32'"),
    "experts-x-shape": (experts(x=f32(T + 1, H)), "x"),
    "experts-hidden": (experts(x=f32(T, H + 1)), "gate_up|H"),
    "experts-idx-shape": (experts(topk_idx=IDX[:2]), "x|topk_weights|T"),
    "experts-idx-none": (experts(topk_idx=None), "topk_idx: expected a torch.Tensor"),
    "experts-idx-range": (experts(topk_idx=IDX + 1), "topk_idx"),
    "experts-idx-below": (experts(topk_idx=IDX - 2), "topk_idx"),
    "experts-idx-numpy": (experts(topk_idx=IDX.numpy()), "topk_idx: expected the library of x"),
    "experts-fewer-in-gate-up": (
        experts(gate_up=f32(E, 2 * F, H), down=f32(E + 1, H, F)),
        r"down: expected as many experts as gate_up has, 3 \(gate_up is \[3, 12, 8\]\); got 4"
        r" \(down is \[4, 8, 6\]\)",
    ),
    "experts-fewer-in-bias": (
        experts(gate_up_bias=f32(E - 1, 2 * F)),
        r"gate_up_bias: expected as many experts as gate_up has, 3 .* got 2",
    ),
    "experts-fewer-in-numpy": (
        lambda: functional.experts(
            *(f32(T, H).numpy(), IDX.numpy(), WEIGHTS.numpy()),
            *(f32(E + 2, 2 * F, H).numpy(), DOWN.numpy()),
        ),
        "down: expected as many experts as gate_up has, 5",
    ),
    "experts-weights-shape": (experts(topk_weights=f32(T, K + 1)), "topk_weights"),
    "experts-weights-numpy": (
        experts(topk_weights=WEIGHTS.numpy()),
        "topk_weights: expected the library of x",
    ),
    "experts-gate_up-2d": (experts(gate_up=f32(2 * F, H)), "gate_up: expected 3 dimensions"),
    "experts-gate_up-shape": (experts(gate_up=f32(E, 2 * F + 1, H)), "gate_up"),
    "experts-down-shape": (experts(down=f32(E, H + 1, F)), "down"),
    "experts-down-count": (experts(down=f32(E - 1, H, F)), "down"),
    "experts-bias-shape": (experts(gate_up_bias=f32(E, F)), "gate_up_bias"),
    "experts-bias-dtype": (experts(down_bias=f32(E, H).double()), "down_bias"),
    "experts-comm": (experts(comm="all", num_experts=E), "comm: expected a Communicator"),
    "experts-plan": (experts(plan=3), "plan: expected a Plan, got int"),
    "experts-plan-options": (
        lambda: experts(plan=plan()(), activation="gelu")(),
        "options: the plan was made with different options",
    ),
    "experts-plan-count": (
        lambda: experts(plan=plan()(), num_experts=E + 1)(),
        "num_experts: the plan was made for 3, got 4",
    ),
    "plan-count-huge": (plan(num_experts=HUGE), "num_experts: expected 1"),
    "plan-hidden-negative": (plan(hidden_size=-1), "hidden_size: expected 1"),
    "plan-hidden-huge": (plan(hidden_size=2**62), "hidden_size|overflow|large"),
    "plan-ffn-huge": (plan(ffn_size=2**62), "ffn_size|overflow|large"),
    "plan-dtype": (plan(dtype="int8"), "dtype: expected one of 'float32'"),
    "plan-dtype-of-gpus": (plan(dtype="float16"), "dtype"),
    "plan-activation": (plan(activation="tanh"), "activation: expected one of 'silu'"),
    "plan-clamped-plain": (plan(activation="clamped_swiglu", gate="none"), "gate"),
    "plan-limit": (plan(activation="clamped_swiglu", swiglu_limit=0.0), "swiglu_limit"),
    "plan-idx-1d": (plan(topk_idx=IDX[0]), "topk_idx: expected 2 dimensions"),
    # Dispatch and combine.
    "dispatch-list": (
        lambda: functional.dispatch([[1.0]], IDX, num_experts=E),
        "x: expected a torch.Tensor or a numpy.ndarray, got list",
    ),
    "dispatch-count": (lambda: functional.dispatch(f32(T, H), IDX), "num_experts: expected the"),
    "dispatch-idx-range": (
        lambda: functional.dispatch(f32(T, H), IDX, num_experts=E - 1),
        "topk_idx",
    ),
    "dispatch-idx-shape": (
        lambda: functional.dispatch(f32(T, H), IDX[:2], num_experts=E),
        r"x|T",
    ),
    "dispatch-weights-shape": (
        lambda: functional.dispatch(f32(T, H), IDX, num_experts=E, topk_weights=f32(T, K + 1)),
        "topk_weights",
    ),
    "dispatch-plan": (lambda: functional.dispatch(f32(T, H), None, plan=3), "plan: expected a P"),
    "dispatch-plan-sizes": (
        lambda: functional.dispatch(f32(T, H + 1), None, plan=plan()()),
        "x|H",
    ),
    "dispatch-comm": (
        lambda: functional.dispatch(f32(T, H), IDX, num_experts=E, comm="all"),
        "comm: expected a Communicator",
    ),
    "combine-plan": (lambda: functional.combine(f32(T * K, H), 3), "plan: expected a Plan, got in"),
    "combine-rows": (lambda: functional.combine(f32(T * K + 1, H), plan()()), "rows|R"),
    "combine-weights-numpy": (
        lambda: functional.combine(f32(T * K, H), plan()(), WEIGHTS.numpy()),
        "topk_weights: expected the library of rows",
    ),
    "combine-weights-ints": (
        lambda: functional.combine(f32(T * K, H), plan()(), IDX),
        "topk_weights",
    ),
    "range-rank": (lambda: functional.expert_range(E, 2, 2), "rank"),
    "range-ranks": (lambda: functional.expert_range(E, 0, 0), "num_ranks: expected 1"),
    "threads-negative": (lambda: functional.set_num_threads(-1), "count: expected 0"),
    "threads-text": (lambda: functional.set_num_threads("all"), "count: expected an integer"),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_a_reason(name: str) -> None:
    call, text = CASES[name]
    with pytest.raises(autoep.InvalidArgumentError, match=text) as caught:
        call()
    assert isinstance(caught.value, ValueError)


def test_the_z_loss_of_nan_is_nan() -> None:
    assert functional.router_z_loss(with_nan(T, E)).isnan()


def test_closed_handles_are_refused() -> None:
    comm = Communicator.alone()
    comm.close()
    comm.close()
    with pytest.raises(autoep.InvalidHandleError, match="the communicator was closed"):
        comm.barrier()
    with pytest.raises(autoep.InvalidHandleError, match="the communicator was closed"):
        plan(comm=comm)()
    closed = plan()()
    closed.close()
    with pytest.raises(autoep.InvalidHandleError, match="the plan was closed"):
        closed.tokens_per_expert_sent()
    with pytest.raises(autoep.InvalidHandleError, match="the plan was closed"):
        experts(plan=closed)()


def test_a_plan_outlives_its_communicator() -> None:
    made = plan(comm=Communicator.alone())()
    assert made.tokens_per_expert_sent() == [3, 3, 2]
    assert experts(plan=made)().shape == (T, H)


def test_a_forked_child_cannot_use_a_handle_of_its_parent() -> None:
    comm = Communicator.alone()
    child = os.fork()
    if child == 0:
        try:
            comm.barrier()
        except autoep.InvalidHandleError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    comm.barrier()


def test_mpi_needs_its_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "autoep.distributed.communicator.MPI_LIBRARY", tmp_path / "libautoep_mpi.so"
    )
    with pytest.raises(autoep.MissingLibraryError, match="libopenmpi-dev") as caught:
        Communicator.mpi()
    assert isinstance(caught.value, ImportError)
    (tmp_path / "libautoep_mpi.so").write_text("no library")
    with pytest.raises(autoep.MissingLibraryError, match="libautoep_mpi"):
        Communicator.mpi()


def test_ranks_of_mpi_are_checked() -> None:
    for ranks in ([-1], [10**30], "all", 3):
        with pytest.raises(autoep.InvalidArgumentError, match="ranks"):
            Communicator.mpi(ranks)


def test_nccl_checks_what_it_is_given() -> None:
    unique_id = bytes(128)
    wrong: list[tuple[str, tuple[Any, ...]]] = [
        ("unique_id", ("text", 0, 1, 0)),
        ("unique_id", (bytes(3), 0, 1, 0)),
        ("rank", (unique_id, 2, 2, 0)),
        ("rank", (unique_id, 0, 0, 0)),
        ("size", (unique_id, 0, "two", 0)),
        ("timeout", (unique_id, 0, 1, 0, -1.0)),
    ]
    for name, arguments in wrong:
        with pytest.raises(autoep.InvalidArgumentError, match=name):
            Communicator.nccl(*arguments)
    nowhere = "/nowhere/libnccl.so.2"
    with pytest.raises(autoep.MissingLibraryError, match=nowhere):
        Communicator.nccl(unique_id, 0, 1, 0, library=nowhere)
    with pytest.raises(autoep.MissingLibraryError, match=nowhere):
        Communicator.nccl_unique_id(nowhere)


def test_push_checks_what_it_is_given() -> None:
    control = Communicator.alone()
    wrong: list[tuple[str, tuple[Any, ...]]] = [
        ("comm", (None, 0)),
        ("device", (control, "zero")),
        ("timeout", (control, 0, "soon")),
        ("timeout", (control, 0, -1.0)),
    ]
    for name, arguments in wrong:
        with pytest.raises(autoep.InvalidArgumentError, match=name):
            Communicator.push(*arguments)
    if not torch.cuda.is_available():
        with pytest.raises(autoep.MissingLibraryError, match=r"libcuda\.so\.1"):
            Communicator.push(control, 0)
    control.barrier()


def test_torch_transport_needs_torch_distributed() -> None:
    with pytest.raises(autoep.UnsupportedError, match="init_process_group"):
        Communicator.torch()


def test_dtensors_are_refused_with_advice() -> None:
    class Sharded(torch.Tensor):
        def to_local(self) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    with pytest.raises(autoep.InvalidArgumentError, match=r"gate_up\.to_local\(\)"):
        experts(gate_up=GATE_UP.as_subclass(Sharded))()


def test_read_only_arrays_are_fine_as_inputs() -> None:
    logits = numpy.linspace(0, 1, 12, dtype=numpy.float32).reshape(4, 3)
    expected = functional.route(logits, 2)
    logits.flags.writeable = False
    routing = functional.route(logits, 2)
    numpy.testing.assert_array_equal(routing.topk_idx, expected.topk_idx)


def test_foreign_byte_order_is_refused() -> None:
    with pytest.raises(autoep.InvalidArgumentError, match="logits: expected a tensor that lends"):
        functional.route(numpy.ones((2, 3), ">f4"), 1)
