"""Bad input to the C extension itself: whatever each argument is, it raises or it returns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import autoep
from autoep.core.native import engine

T, H, F, E, K = 4, 8, 6, 3, 2
N = T * K
# One integer type's error, one of Python's argument parsing, and AutoEP's own.
REFUSALS = (autoep.Error, TypeError, OverflowError, ValueError)

ROUTE = (1, K, 0, 0.0, 1.0, 0, 1, 1, 1, 3)
LAYER = (E, K, H, F, 1, 1, 2, 1, 1, 1.0, 7.0, 1)


def f32(*shape: int) -> torch.Tensor:
    return torch.ones(*shape)


def i32(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, dtype=torch.int32)


IDX = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 1]])
SLOTS = torch.arange(N, dtype=torch.int32).view(T, K)
COUNTS = torch.tensor([3, 3, 2])


def sizes(info: tuple[int, ...]) -> tuple[int, int]:
    """The bytes of a plan and of what a forward saves."""
    *_, plan, plan_per_token, saved, saved_per_row, _ = info
    return plan + T * plan_per_token, saved + N * saved_per_row


def space(count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8)


def calls() -> dict[str, tuple[Any, ...]]:
    """Arguments of each function with which it succeeds."""
    context = engine.context_create(1, 0, 1, 0, None)
    comm = engine.comm_create_self()
    layer, info = engine.layer_create(context, LAYER, None)
    plan_size, saved_size = sizes(info)
    plan, saved = space(plan_size), space(saved_size)
    workspace = space(max(engine.layer_workspace(context, layer, T, 0, 0, False, False, False)))
    # A plan and a pass that the calls which follow can go by.
    planned = engine.layer_plan(context, layer, IDX, plan, None, None, workspace)
    assert planned in ((N, N, 0, 0), (-1, N, 0, 0))
    weights = (f32(E, 2 * F, H), f32(E, 2 * F), f32(E, H, F), f32(E, H))
    gradients = tuple(torch.empty_like(weight) for weight in weights)
    topk_weights = f32(T, K)
    engine.layer_forward(
        *(context, layer, weights, f32(T, H), topk_weights, None, None),
        *(plan, N, 0, 0, saved, f32(T, H), workspace),
    )
    return {
        "version": (),
        "context_create": (1, 0, 1, 0, None),
        "context_num_threads": (context,),
        "context_statistics": (context,),
        "context_reset_statistics": (context,),
        "comm_create_self": (),
        "comm_create_local": (2, 1.0),
        "comm_create_callback": (object(), 0, 1, 1.0),
        "comm_rank": (comm,),
        "comm_abort": (engine.comm_create_self(), "enough"),
        "comm_health": (comm,),
        "all_to_all": (comm, f32(2, 3), [2], f32(2, 3), [2]),
        "exchange_counts": (comm, [4]),
        "all_reduce": (comm, f32(3)),
        "barrier": (comm,),
        "route": (context, ROUTE, f32(T, E), f32(E), i32(T, K), f32(T, K), i32(E)),
        "router_forward": (
            context,
            ROUTE,
            f32(T, H),
            f32(E, H),
            f32(E),
            f32(T, E),
            i32(T, K),
            f32(T, K),
            i32(E),
        ),
        "route_backward": (context, ROUTE, f32(T, E), IDX.int(), f32(T, K), f32(T, E)),
        "router_z_loss": (context, f32(T, E), f32(1)),
        "router_z_loss_backward": (context, f32(T, E), f32(1), f32(T, E)),
        "jitter": (context, f32(T, H), 0.1, 7, f32(T, H)),
        "sort_by_expert": (context, IDX, E, i32(T, K), i32(E)),
        "permute": (context, f32(T, H), SLOTS, f32(N, H)),
        "permute_backward": (context, f32(N, H), SLOTS, f32(T, H)),
        "unpermute": (context, f32(N, H), SLOTS, topk_weights, f32(T, H)),
        "unpermute_backward": (
            context,
            f32(T, H),
            f32(N, H),
            SLOTS,
            topk_weights,
            f32(N, H),
            f32(T, K),
        ),
        "grouped_gemm": (context, f32(N, H), f32(E, F, H), 1, COUNTS, f32(N, F)),
        "grouped_gemm_weight_grad": (context, f32(N, F), f32(N, H), 1, COUNTS, f32(E, F, H)),
        "expert_range": (E, 2, 0),
        "layer_create": (context, LAYER, comm),
        "layer_workspace": (context, layer, T, N, 0, True, False, True),
        "layer_plan": (context, layer, IDX, space(plan_size), i32(E), None, workspace),
        "layer_forward": (
            context,
            layer,
            weights,
            f32(T, H),
            topk_weights,
            IDX,
            i32(E),
            space(plan_size),
            0,
            0,
            0,
            space(saved_size),
            f32(T, H),
            workspace,
        ),
        "layer_backward": (
            context,
            layer,
            weights,
            f32(T, H),
            f32(T, H),
            topk_weights,
            plan,
            N,
            0,
            0,
            saved,
            False,
            f32(T, H),
            f32(T, K),
            gradients,
            False,
            workspace,
        ),
        "dispatch": (context, layer, plan, N, 0, 0, f32(T, H), topk_weights, f32(N, H), workspace),
        "combine": (context, layer, plan, N, 0, 0, f32(N, H), topk_weights, f32(T, H), workspace),
        "combine_backward": (
            context,
            layer,
            plan,
            N,
            0,
            0,
            f32(T, H),
            f32(N, H),
            topk_weights,
            f32(N, H),
            f32(T, K),
            workspace,
        ),
    }


# Not called here: they begin and end MPI, which test_functional_ranks.py does, or need GPUs; see
# test_nccl_checks_what_it_is_given and test_push_checks_what_it_is_given.
UNCALLED = {
    "comm_create_mpi",
    "mpi_finalize",
    "nccl_unique_id",
    "comm_create_nccl",
    "comm_create_push",
}

NAMES = sorted(calls())


def closed(handle: Any) -> Any:
    handle.close()
    return handle


def read_only() -> numpy.ndarray:
    array = numpy.ones((T, H), numpy.float32)
    array.flags.writeable = False
    return array


def bad_values() -> list[Any]:
    """What an argument may be replaced with; each is wrong nearly everywhere."""

    class Producer:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def __dlpack__(self, **_: Any) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    return [
        object(),
        None,
        0,
        -1,
        10**30,
        -(10**30),
        1.5,
        float("nan"),
        "text",
        b"bytes",
        [],
        (),
        {},
        [10**30],
        [None],
        (None,) * 4,
        (None,) * 10,
        (10**30,) * 10,
        (-1,) * 10,
        (-1,) * len(LAYER),
        (2**31 - 1,) * len(LAYER),
        ROUTE[:-1],
        engine.context_create(1, 0, 1, 0, None),
        engine.comm_create_self(),
        closed(engine.context_create(1, 0, 1, 0, None)),
        closed(engine.comm_create_self()),
        engine.Handle,
        Producer(None),
        Producer("capsule"),
        Producer(RuntimeError("no memory to lend")),
        Producer(torch.ones(2).__dlpack__()),
        torch.ones(2, 2, device="meta"),
        torch.ones(2, 2, requires_grad=True),
        torch.ones(2, 2, dtype=torch.complex64),
        torch.ones(2, 2, dtype=torch.bool),
        torch.ones((1,) * 12),
        torch.ones(0),
        torch.ones(0, 0),
        torch.tensor(1.0),
        torch.ones(1).expand(2**40),
        torch.ones(1, 1).expand(2**31, 2**31),
        f32(H, T).T,
        f32(T, H)[:, ::2],
        f32(T, H).double(),
        f32(T, H).half(),
        IDX - 5,
        IDX + 2**40,
        read_only(),
        numpy.array(["text"]),
        numpy.array([object()]),
    ]


# What Python reaches by other ways: Handle.close, and what becomes an exception or a check.
ELSEWHERE = {"context_free", "comm_free", "layer_free", "abi_version", "status_name"}


def test_every_function_of_the_header_is_here() -> None:
    header = Path(__file__).resolve().parents[2] / "include" / "autoep.h"
    declared = re.findall(r"^[\w *]*?\bautoep_(\w+)\(", header.read_text(), re.MULTILINE)
    assert len(declared) > 30
    assert set(declared) == set(NAMES) | UNCALLED | ELSEWHERE


def test_every_function_is_called_here() -> None:
    functions = {name for name in dir(engine) if not name.startswith("_")} - {"Handle"}
    assert functions == set(NAMES) | UNCALLED


@pytest.mark.parametrize("name", NAMES)
def test_the_good_call_succeeds(name: str) -> None:
    getattr(engine, name)(*calls()[name])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("name", NAMES)
def test_any_value_in_any_place_is_survived(name: str) -> None:
    function, arguments = getattr(engine, name), calls()[name]
    for place in range(len(arguments)):
        for value in bad_values():
            try:
                function(*arguments[:place], value, *arguments[place + 1 :])
            except REFUSALS as error:
                assert str(error), f"argument {place} = {value!r} was refused without a text"
    function(*calls()[name])


@pytest.mark.parametrize("name", NAMES)
def test_an_object_without_meaning_is_refused(name: str) -> None:
    function, arguments = getattr(engine, name), calls()[name]
    for place in range(len(arguments)):
        if (name, place) == ("comm_create_callback", 0):
            continue  # a transport is any object; its use shows whether it is one
        with pytest.raises(REFUSALS):
            function(*arguments[:place], object(), *arguments[place + 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_number_of_arguments_is_refused(name: str) -> None:
    function, arguments = getattr(engine, name), calls()[name]
    with pytest.raises(TypeError, match=name):
        function(*arguments, None)
    if arguments:
        with pytest.raises(TypeError, match=name):
            function(*arguments[:-1])


@pytest.mark.parametrize("place", range(4))
def test_weights_of_any_kind_are_survived(place: int) -> None:
    for name, argument in (("layer_forward", 2), ("layer_backward", 2), ("layer_backward", 12)):
        arguments = calls()[name]
        for value in bad_values():
            weights = list(arguments[argument])
            weights[place] = value
            changed = list(arguments)
            changed[argument] = tuple(weights)
            try:
                getattr(engine, name)(*changed)
            except REFUSALS as error:
                assert str(error)


def test_outputs_cannot_be_read_only() -> None:
    arguments = calls()["jitter"]
    with pytest.raises(autoep.InvalidArgumentError, match="y: an output cannot be read-only"):
        engine.jitter(*arguments[:-1], read_only())
    engine.jitter(arguments[0], read_only(), *arguments[2:])


@pytest.mark.parametrize("name", ["plan", "saved", "workspace"])
def test_memory_must_be_large_dense_and_aligned(name: str) -> None:
    arguments = list(calls()["layer_backward"])
    place = {"plan": 6, "saved": 10, "workspace": 16}[name]
    # Otherwise the gradients would have room for all of the workspace.
    arguments[12], arguments[14] = None, (None, *arguments[14][1:])
    good = arguments[place]
    assert good.data_ptr() % 64 == 0
    # A byte more, so that what does not begin with the first one is long enough.
    longer = torch.cat([good, good])
    for memory, text in (
        (None, "bytes"),
        (good[:63], "bytes"),
        (longer[1:], "aligned|multiple of 64"),
        (longer[::2], "dense bytes"),
        (good.int(), "dense bytes"),
    ):
        arguments[place] = memory
        with pytest.raises(autoep.InvalidArgumentError, match=f"{name}.*({text})"):
            engine.layer_backward(*arguments)


def test_a_layer_of_another_configuration_refuses_a_plan() -> None:
    context, _, plan, *others = calls()["dispatch"]
    other, _ = engine.layer_create(context, (E + 1, *LAYER[1:]), None)
    with pytest.raises(autoep.InvalidArgumentError, match="plan"):
        engine.dispatch(context, other, plan, *others)


def test_handles_cannot_be_made_or_mixed_up() -> None:
    with pytest.raises(TypeError):
        engine.Handle()
    with pytest.raises(autoep.InvalidArgumentError, match="expected a context of the engine"):
        engine.context_num_threads(engine.comm_create_self())


def test_what_a_producer_raises_is_told() -> None:
    context = engine.context_create(1, 0, 1, 0, None)
    wanting = torch.ones(2, 2, requires_grad=True)
    with pytest.raises(autoep.InvalidArgumentError, match=r"logits: .*detach\(\)"):
        engine.router_z_loss(context, wanting, f32(1))


def test_memory_is_given_back() -> None:
    """A call, good or bad, holds no reference to its tensors afterwards."""
    import sys

    context = engine.context_create(1, 0, 1, 0, None)
    x = numpy.ones((T, H), numpy.float32)
    y = numpy.ones((T, H), numpy.float32)
    before = sys.getrefcount(x), sys.getrefcount(y)
    for _ in range(10):
        engine.jitter(context, x, 0.1, 1, y)
        with pytest.raises(autoep.InvalidArgumentError):
            engine.jitter(context, x, 2.0, 1, y)
        with pytest.raises(autoep.InvalidArgumentError):
            engine.jitter(context, x, 0.1, -1, y)
    assert (sys.getrefcount(x), sys.getrefcount(y)) == before
