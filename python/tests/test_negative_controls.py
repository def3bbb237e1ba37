"""Every helper that compares also fails: once for each way to be wrong that it should notice.

`parallel/cases_controls.py` does the same where one of several ranks is wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_layer import LayerShape, RandomLayer, random_layer
from support import compare, experts_classes, models, moe, reference
from support.cuda import lab
from support.cuda import local_experts as cuda_experts
from support.engines import ADAMW, start
from support.families import parity
from torch import Tensor, nn

from autoep import functional
from autoep.distributed.launch import World


def swap_two(values: Tensor, dim: int = 0) -> Tensor:
    """Exchanges the first two along a dimension."""
    order = list(range(values.shape[dim]))
    order[:2] = 1, 0
    return values.index_select(dim, torch.tensor(order))


def exchange_rows(values: Tensor) -> Tensor:
    """Exchanges two rows of the first expert."""
    return torch.cat([swap_two(values[:1], 1), values[1:]])


def move_one(values: Tensor) -> Tensor:
    """One value is off, by a thousandth of the largest."""
    changed = values.clone()
    changed.view(-1)[-1] += 1e-3 * values.abs().max()
    return changed


MUTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "experts": swap_two,
    "rows": exchange_rows,
    "value": move_one,
}
every_mutation = pytest.mark.parametrize("mutate", MUTATIONS.values(), ids=MUTATIONS)


def assert_each_is_noticed(
    check: Callable[[list[Tensor]], None], right: list[Tensor], mutate: Callable[[Tensor], Tensor]
) -> None:
    """A check passes for the right tensors, and not where one of them is another."""
    check(right)
    for index, tensor in enumerate(right):
        if tensor.dim() < (3 if mutate is exchange_rows else 1):
            continue
        wrong = [*right[:index], mutate(tensor.detach()), *right[index + 1 :]]
        with pytest.raises(AssertionError):
            check(wrong)


def tensors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    layer = random_layer(LayerShape(7, 2, 4, 6, 5, biases=True), dtype)
    return [t.detach() for t in (layer.x, layer.gate_up, layer.gate_up_bias, layer.down)]


def each(check: Callable[[Tensor, Tensor], None]) -> Callable[[list[Tensor], list[Tensor]], None]:
    def check_all(actual: list[Tensor], expected: list[Tensor]) -> None:
        for a, e in zip(actual, expected, strict=True):
            check(a, e)

    return check_all


def bits_of(actual: list[Tensor], expected: list[Tensor]) -> None:
    cuda_experts.assert_same_bits(cuda_experts.bits(actual), cuda_experts.bits(expected))


@every_mutation
@pytest.mark.parametrize(
    "check",
    [
        compare.assert_close,
        compare.assert_close_or_equal,
        compare.assert_all_same_bits,
        lambda actual, expected: compare.assert_as_good(actual, expected, expected),
        cuda_experts.assert_close,
        bits_of,
        each(compare.assert_same_bits),
        each(lab.assert_close),
        each(lab.assert_same_bits),
    ],
)
def test_lists_of_tensors(
    check: Callable[[list[Tensor], list[Tensor]], None], mutate: Callable[[Tensor], Tensor]
) -> None:
    right = tensors()
    exact = [t.double() for t in right] if "close" in getattr(check, "__name__", "") else right
    assert_each_is_noticed(lambda found: check(found, exact), right, mutate)


def test_one_of_the_least_bits_is_noticed() -> None:
    right = tensors(torch.bfloat16)
    wrong = right[0].clone()
    wrong.view(torch.int16)[0, 0] ^= 1
    for check in (compare.assert_same_bits, lab.assert_same_bits):
        check(right[0], right[0].clone())
        with pytest.raises(AssertionError):
            check(wrong, right[0])


def test_shapes_types_and_what_is_missing_are_noticed() -> None:
    x = torch.ones(2, 3)
    for wrong in ([None], [x[:1]], [x.t()]):
        with pytest.raises(AssertionError):
            compare.assert_close(wrong, [x])
    for wrong in (x.double(), x.t()):
        with pytest.raises(AssertionError):
            compare.assert_same_bits(wrong, x)
    for check in (compare.assert_close, compare.assert_all_same_bits):
        with pytest.raises(ValueError, match="argument 2 is longer"):
            check([x], [x, x])
    with pytest.raises(AssertionError):
        compare.assert_close_or_equal([torch.tensor([1, 2])], [torch.tensor([2, 1])])


def test_a_small_tensor_beside_a_large_one_is_compared_too() -> None:
    small, large = torch.full((3,), 1e-3), torch.full((3,), 1.0)
    compare.assert_close([small, large], [small, large])
    with pytest.raises(AssertionError):
        compare.assert_close([-small, large], [small, large])


def test_numbers() -> None:
    models.assert_close_numbers(1.0, 1.0, torch.float64)
    with pytest.raises(AssertionError):
        models.assert_close_numbers(1.0 + 1e-11, 1.0, torch.float64)
    with pytest.raises(AssertionError):
        models.assert_close_numbers(1.0 + 1e-5, 1.0, torch.float32)


# What `functional.experts` and the reference are given apart from each other.
WRONG_INPUTS: dict[str, Callable[[RandomLayer], None]] = {
    "x": lambda layer: setattr(layer, "x", swap_two(layer.x.detach()).requires_grad_()),
    "choice": lambda layer: setattr(layer, "topk_idx", swap_two(layer.topk_idx, 1)),
    "weights": lambda layer: setattr(
        layer, "topk_weights", swap_two(layer.topk_weights.detach()).requires_grad_()
    ),
    "experts": lambda layer: setattr(layer, "down", swap_two(layer.down.detach()).requires_grad_()),
    "biases": lambda layer: setattr(
        layer, "down_bias", swap_two(layer.down_bias.detach()).requires_grad_()
    ),
}


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_the_reference_of_another_layer(name: str) -> None:
    layer = random_layer(LayerShape(9, 2, 4, 6, 5, biases=True), torch.float64)
    found = layer.run(functional.experts)
    compare.assert_close(found, layer.double().run(reference.experts))
    other = layer.double()
    WRONG_INPUTS[name](other)
    with pytest.raises(AssertionError):
        compare.assert_close(found, other.run(reference.experts))


@every_mutation
def test_gradients_beside_the_reference(mutate: Callable[[Tensor], Tensor]) -> None:
    layer = random_layer(LayerShape(9, 2, 4, 6, 5, biases=True), torch.float64)
    expected = layer.double().run(reference.experts)
    found = layer.run(functional.experts)
    assert_each_is_noticed(lambda some: compare.assert_close(some, expected), found, mutate)


@every_mutation
def test_moe(mutate: Callable[[Tensor], Tensor]) -> None:
    given = moe.inputs()
    found, expected = (
        moe.results(call(given, {}, {}), list(given.values())) for call in (moe.together, moe.apart)
    )
    counted = found[2:4]  # the choice, and the tokens of each expert

    def check(numbers: list[Tensor]) -> None:
        moe.assert_same([*numbers[:2], *counted, *numbers[2:]], expected)

    assert_each_is_noticed(check, [*found[:2], *found[4:]], mutate)
    for index in (2, 3):
        wrong = found[index].clone()
        wrong.view(-1)[0] += 1
        with pytest.raises(AssertionError):
            moe.assert_same([*found[:index], wrong, *found[index + 1 :]], expected)


@every_mutation
@pytest.mark.parametrize("kind", ["silu", "transposed, biases", "softcapped"])
def test_experts_of_a_module(kind: str, mutate: Callable[[Tensor], Tensor]) -> None:
    experts, (x, idx, weights) = experts_classes.case(kind, torch.float64)
    expected = experts_classes.results(experts, experts(x, idx, weights), x, weights)
    experts.config = experts_classes.ModuleConfig("autoep")
    found = experts_classes.results(experts, experts(x, idx, weights), x, weights)
    assert_each_is_noticed(lambda some: compare.assert_close(some, expected), found, mutate)


@contextmanager
def mutated(holder: nn.Parameter, name: str, mutate: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Another `data` or `grad` of a parameter, for a while."""
    before = getattr(holder, name)
    setattr(holder, name, mutate(before))
    yield
    setattr(holder, name, before)


def trained(model: nn.Module) -> tuple:
    """An engine and a plain run after the same backward."""
    plain = models.PlainRun(
        copy.deepcopy(model), partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    )
    engine = start(model, optimizer=ADAMW)
    batches = models.micro_batches(0, 1, 1)
    plain.backward(batches)
    engine.backward(engine(**batches[0][0]).loss)
    return engine, plain


def experts_of(plain: nn.Module) -> list[nn.Parameter]:
    found = [p for name, p in plain.named_parameters() if name.endswith("experts.gate_up_proj")]
    assert len(found) == 2
    return found


@every_mutation
def test_models_of_an_engine(mutate: Callable[[Tensor], Tensor]) -> None:
    engine, plain = trained(models.tiny("mixtral", dtype=torch.float64))
    models.assert_same_gradients(engine, plain.model)
    models.assert_same_weights(engine, plain.model)
    for parameter in experts_of(plain.model):
        with mutated(parameter, "grad", mutate), pytest.raises(AssertionError):
            models.assert_same_gradients(engine, plain.model)
        with mutated(parameter, "data", mutate), pytest.raises(AssertionError):
            models.assert_same_weights(engine, plain.model)
    gate = plain.model.model.layers[0].mlp.gate.weight
    with mutated(gate, "grad", lambda _: None), pytest.raises(AssertionError):
        models.assert_same_gradients(engine, plain.model)
    models.assert_steps_agree(engine, plain)


@every_mutation
def test_steps_of_an_engine(mutate: Callable[[Tensor], Tensor]) -> None:
    engine, plain = trained(models.tiny("mixtral", dtype=torch.float64))
    with (
        mutated(experts_of(plain.model)[0], "data", mutate),
        pytest.raises(AssertionError),
    ):
        models.assert_steps_agree(engine, plain)


@every_mutation
def test_adapters(mutate: Callable[[Tensor], Tensor]) -> None:
    """Their experts are rows of one matrix."""
    torch.manual_seed(5)
    lora = LoraConfig(r=3, target_parameters=["mlp.experts.down_proj"], init_lora_weights=False)
    mine = get_peft_model(models.tiny("mixtral", dtype=torch.float64), lora)
    theirs = copy.deepcopy(mine)
    models.assert_same_adapters(mine, theirs)
    (adapter, *_) = [p for name, p in theirs.named_parameters() if "lora_A" in name]
    by_expert = lambda values: mutate(values.view(8, 3, -1)).view(values.shape)  # noqa: E731
    with mutated(adapter, "data", by_expert), pytest.raises(AssertionError):
        models.assert_same_adapters(mine, theirs)


@every_mutation
@pytest.mark.parametrize(
    ("family", "ending"), [("mixtral", "experts.gate_up_proj"), ("dbrx", "experts.mlp.v1")]
)
def test_families(family: str, ending: str, mutate: Callable[[Tensor], Tensor]) -> None:
    """DBRX: the experts are rows, and are stacked."""
    model = parity.tiny.tiny_model(family)
    engine = parity.start(model, 1)
    expected = parity.step_in_one_process(model, family, World(0, 1, 0, False))
    found = parity.forward(engine, family, 0)
    engine.backward(found.loss())
    parity.assert_same_gradients(engine, model)
    by_expert = lambda values: mutate(values.view(8, 24, -1)).view(values.shape)  # noqa: E731
    change = mutate if family == "mixtral" else by_expert
    parameter = next(p for name, p in model.named_parameters() if name.endswith(ending))
    with mutated(parameter, "grad", change), pytest.raises(AssertionError):
        parity.assert_same_gradients(engine, model)
    right = [t.detach() for t in found.compared()]
    assert_each_is_noticed(
        lambda some: compare.assert_close(some, expected.compared()), right, mutate
    )
