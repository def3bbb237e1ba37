"""One step of a tiny model of each family over the ranks, against the same model in one process."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

import autoep
from autoep.detection.conventions import follows_convention
from autoep.distributed.launch import World
from autoep.training.engine import Engine
from support import models
from support.compare import assert_close
from support.families import tiny

WORKS = "works"
NOT_BUILT = "not built: "
TIMEOUT = 60.0
EP_SIZES = (1, 2)


class Found(NamedTuple):
    """The results of a family.

    Attributes:
        initialize: "works"; or the reason why `autoep.initialize` refuses it; or "not built: " and
            the reason why there is no tiny model of it.
        implementation: "works" with `experts_implementation="autoep"`; empty if transformers does
            not offer it for the family.
        parallelism: "offered" if transformers has a plan for its own expert parallelism.
    """

    initialize: str
    implementation: str
    parallelism: str


class Outcome(NamedTuple):
    """The compared outputs of a forward: the result, and the routers' records."""

    y: torch.Tensor
    router_logits: list[torch.Tensor]
    aux_loss: torch.Tensor | None

    def loss(self) -> torch.Tensor:
        """Returns a number that depends on all outputs; its direction depends only on the shape."""
        generator = torch.Generator().manual_seed(7)
        direction = torch.randn(self.y.shape, generator=generator).to(self.y.dtype)
        loss = (self.y * direction).mean()
        return loss if self.aux_loss is None else loss + 0.1 * self.aux_loss

    def compared(self) -> list[torch.Tensor]:
        """Returns the tensors, in order."""
        return [self.y, *self.router_logits, *([] if self.aux_loss is None else [self.aux_loss])]


def forward(model: Any, model_type: str, rank: int) -> Outcome:
    """Runs a model on the batch of a rank, with that rank's random state."""
    torch.manual_seed(rank)
    inputs = tiny.inputs(model_type, rank)
    try:
        output = model(**inputs, output_router_logits=True)
    except TypeError:  # the model has no such argument
        output = model(**inputs)
    y = output.get("logits")
    logits = output.get("router_logits") or ()
    return Outcome(
        output.last_hidden_state if y is None else y,
        [one for one in logits if isinstance(one, torch.Tensor)],
        output.get("aux_loss"),
    )


def check(model_type: str, world: World) -> Found:
    """Compares a family with one process: `initialize`, `experts_implementation`."""
    try:
        model = tiny.tiny_model(model_type)
    except tiny.NotBuiltError as reason:
        return Found(f"{NOT_BUILT}{reason}", "", "")
    try:
        engines = [start(model, ep_size) for ep_size in EP_SIZES]
    except autoep.ModelError as refusal:
        return Found(str(refusal), "", "")
    plain = copy.deepcopy(model)
    expected = step_in_one_process(plain, model_type, world)
    for engine in engines:
        found = forward(engine, model_type, world.rank)
        engine.backward(found.loss())
        assert_close(found.compared(), expected.compared())
        assert_same_gradients(engine, plain)
    plan = getattr(model, "_ep_plan", None) or {}
    offered = "offered" if "ep_dispatch_experts" in plan.values() else ""
    if not any(follows_convention(module) for module in model.modules()):
        return Found(WORKS, "", offered)
    model.set_experts_implementation("autoep")
    found = step_in_one_process(model, model_type, world)
    assert_close(found.compared(), expected.compared())
    assert_close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()])
    return Found(WORKS, WORKS, offered)


def assert_same_gradients(engine: Engine, plain: nn.Module) -> None:
    """Compares every gradient; stacks the plain model's experts where the engine's are stacked."""
    mine = {name: g for name, g in models.gradients(engine).items() if g is not None}
    theirs = stacked_gradients(plain)
    assert mine.keys() == theirs.keys()
    assert_close(
        [mine[name] for name in theirs],
        [models.own_part(engine, name, gradient) for name, gradient in theirs.items()],
    )


def stacked_gradients(plain: nn.Module) -> dict[str, torch.Tensor]:
    """Returns a plain model's gradients, under the names of parameters after `initialize`."""
    found = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    for name, module in plain.named_modules():
        if isinstance(module, nn.ModuleList) and name.endswith(".experts"):
            parts = [_gradients_of_each(module, part) for part in _PARTS_OF_EXPERTS]
            w1, w3, w2 = (torch.stack(part) for part in parts if part)
        elif hasattr(module, "v1"):  # DBRX: the experts are rows
            w1, w3, w2 = (getattr(module, w).grad.view(8, -1, 32) for w in ("w1", "v1", "w2"))
            w2, name = w2.transpose(1, 2), name.removesuffix(".mlp")
        elif getattr(module, "zero_expert_num", 0):  # LongCat: experts without weights get zeros
            rows = len(module.down_proj)
            assert not module.gate_up_proj.grad[rows:].any()
            found[f"{name}.gate_up_proj"] = module.gate_up_proj.grad[:rows]
            continue
        else:
            continue
        found = {n: g for n, g in found.items() if not n.startswith(f"{name}.")}
        found |= {f"{name}.gate_up_proj": torch.cat([w1, w3], 1), f"{name}.down_proj": w2}
    return found


_PARTS_OF_EXPERTS = ("w1", "w3", "w2", "gate_proj", "up_proj", "down_proj")


def _gradients_of_each(experts: nn.ModuleList, part: str) -> list[torch.Tensor]:
    """Returns one weight's gradient per expert; zeros without tokens. Empty if there is none."""
    weights = [getattr(expert, part).weight for expert in experts if hasattr(expert, part)]
    return [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]


def start(model: nn.Module, ep_size: int) -> Engine:
    """Builds an engine of a copy of the model."""
    settings = {"autoep_size": ep_size, "timeout": TIMEOUT}
    config = {"expert_parallel": settings}
    return autoep.initialize(model=copy.deepcopy(model), config=config)[0]


def step_in_one_process(model: nn.Module, model_type: str, world: World) -> Outcome:
    """Adds the gradients of the mean of all ranks' losses; returns the outcome of this rank."""
    outcomes = []
    for rank in range(world.size):
        outcomes.append(forward(model, model_type, rank))
        (outcomes[-1].loss() / world.size).backward()
    return outcomes[world.rank]
