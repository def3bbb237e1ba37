"""`autoep.initialize`: from a model and a configuration to an engine that trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from autoep.checkpoints.hf_export import refuse_save_pretrained
from autoep.checkpoints.state import TrainState
from autoep.config.expert_parallel import ExpertParallelConfig
from autoep.config.training import Config, read_config, resolve_batch_sizes
from autoep.detection.custom import find_custom_layers
from autoep.detection.find import find_moe_layers
from autoep.detection.probe import check_specs
from autoep.distributed.devices import device_of_rank
from autoep.distributed.groups import choose_ep_size, make_groups
from autoep.distributed.launch import join_world
from autoep.distributed.link import Link
from autoep.distributed.threads import share_cores
from autoep.errors import ConfigError, ModelError
from autoep.layers.generation import keep_generate_in_step
from autoep.layers.lora import ExpertAdapters
from autoep.layers.parameters import ParameterTable
from autoep.layers.replace import replace_experts_forward
from autoep.layers.sharding import (
    check_model,
    move_rest,
    shard_experts,
    start_from_rank_zero,
)
from autoep.layers.spec import MoELayer
from autoep.layers.stacking import check_separate, stack_experts
from autoep.routers.balance import BiasBalancer
from autoep.routers.fused import fuse_routers
from autoep.routers.sinkhorn import balance_routers, check_routers
from autoep.training.arguments import takes_model_first
from autoep.training.data import EvenLoader, build_loader
from autoep.training.engine import Engine
from autoep.training.optimizers import (
    ParameterGroups,
    adopt_optimizer,
    build_optimizer,
    make_optimizer,
    rehearse_optimizer,
    trained_parameters,
)
from autoep.training.precision import check_float32, compute_in_bf16
from autoep.training.schedulers import build_scheduler

Initialized = tuple[Engine, Optimizer | None, EvenLoader | None, LRScheduler | None]


@takes_model_first
def initialize(
    args: Any = None,
    model: nn.Module | None = None,
    optimizer: Optimizer | Callable[..., Optimizer] | None = None,
    model_parameters: ParameterGroups | None = None,
    training_data: Dataset | DataLoader | None = None,
    lr_scheduler: LRScheduler | Callable[[Optimizer], LRScheduler] | None = None,
    mpu: Any = None,
    collate_fn: Callable[[list[Any]], Any] | None = None,
    config: str | PathLike[str] | Mapping[str, Any] | Config | None = None,
) -> Initialized:
    """Shards a model's experts over the ranks and returns what trains it; collective.

    By position the order is `(model, config, ...)` if the first argument is a module, and
    DeepSpeed's `(args, model, ...)` otherwise.

    Works in a single process, and under `mpirun -n P` or `torchrun --nproc_per_node P`. All ranks
    start from rank 0's weights.

    Args:
        args: A namespace whose `deepspeed_config` is used if `config` is None; passing both is an
            error.
        model: A HuggingFace model with MoE layers, its weights loaded, on the CPU or on this
            rank's GPU. With several ranks and GPUs, a model on the CPU is moved to the rank's GPU.
        optimizer: An optimizer that has not stepped, or a function of parameter groups; None for
            the configuration's.
        model_parameters: The parameters, or groups of them, that the configuration's optimizer or
            the function trains; None for all that require a gradient.
        training_data: A dataset, or a loader of this rank's own batches.
        lr_scheduler: A scheduler of `optimizer`, or a function of the optimizer; None for the
            configuration's.
        mpu: Not supported: the only model parallelism is that of the experts.
        collate_fn: Makes a batch of samples of `training_data`.
        config: The path of a JSON file, or a dict, in DeepSpeed's format.

    Returns:
        The engine, the optimizer, the loader of `training_data` and the scheduler.

    Raises:
        ConfigError: A key or an argument is wrong; the text names it and what is allowed.
        ModelError: The model has no MoE layer, or cannot be trained this way.
    """
    _check_arguments(model, mpu)
    if isinstance(model_parameters, Iterator):
        model_parameters = list(model_parameters)
    settings = read_config(_given_config(args, config))
    _check_given_once(settings, optimizer, lr_scheduler)
    experts = settings.expert_parallel
    layers = _find_layers(model, experts) if experts.enabled else []
    adapters = [ExpertAdapters(layer) for layer in layers]
    device = check_model(model)
    check_specs(layers)
    check_separate(model, layers)
    if experts.router == "sinkhorn":
        check_routers(layers)
    coefficient = experts.load_balance_coeff
    balancer = BiasBalancer(model, layers, coefficient) if coefficient else None

    world = join_world(experts.timeout)
    device = device_of_rank(device, world)
    share_cores(world, experts.num_threads)
    batch_sizes = resolve_batch_sizes(settings, world.size)
    fewest = min((layer.num_experts for layer in layers), default=1)
    ep_size = choose_ep_size(experts.autoep_size if layers else 1, world.size, fewest)
    groups = make_groups(world, ep_size, _link(experts, device))

    loader = build_loader(training_data, collate_fn, settings, batch_sizes.micro, world)
    _rehearse(settings, model, layers, model_parameters)

    steps = None
    if world.size > 1:
        start_from_rank_zero(model, device)
    if groups.ep_size > 1:
        steps = keep_generate_in_step(model, groups.ep_mesh)
    layers, origins = stack_experts(layers)
    table = ParameterTable(model, layers, origins)
    if groups.ep_mesh is not None:
        shard_experts(table, groups.ep_mesh)
    move_rest(model, device)
    if settings.bf16.enabled:
        compute_in_bf16(model, table, () if balancer is None else balancer.biases)
    else:
        check_float32(table)
    load = replace_experts_forward(layers, adapters, groups.comm, steps)
    if experts.router == "sinkhorn":
        balance_routers(layers)
    elif experts.fused_router:
        fuse_routers(layers)

    if groups.ep_mesh is not None:
        refuse_save_pretrained(model, layers, "spread over ranks")
    elif origins:
        refuse_save_pretrained(model, layers, "stacked")

    optimizer = _choose_optimizer(optimizer, settings, model_parameters, table)
    table.release_given()
    lr_scheduler = _choose_scheduler(lr_scheduler, settings, optimizer)
    state = TrainState(
        model=model,
        device=device,
        parameter_table=table,
        optimizer=optimizer,
        lr_scheduler=lr_scheduler,
        loader=loader,
        batch_sizes=batch_sizes,
        world=world,
        groups=groups,
    )
    engine = Engine(state, settings, load, balancer)
    return engine, optimizer, loader, lr_scheduler


def _check_arguments(model: object, mpu: object) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(f"model: given {type(model).__name__}; allowed: a torch.nn.Module")
    if mpu is not None:
        raise ConfigError(
            "mpu: given, but there is no model parallelism besides that of the experts; leave it"
            " out and set expert_parallel.autoep_size"
        )


def _given_config(args: object, config: object) -> Any:
    from_args = getattr(args, "deepspeed_config", None)
    if config is not None and from_args is not None:
        raise ConfigError(
            f"config: given twice, as config ({type(config).__name__}) and as"
            f" args.deepspeed_config ({from_args!r}); remove one of them"
        )
    return from_args if config is None else config


def _find_layers(model: nn.Module, config: ExpertParallelConfig) -> list[MoELayer]:
    if config.custom_layers.moe_layer_pattern is None:
        return find_moe_layers(model, config.preset_model)
    return find_custom_layers(model, config.custom_layers)


def _check_given_once(settings: Config, optimizer: object, lr_scheduler: object) -> None:
    for name, given, section in (
        ("optimizer", optimizer, settings.optimizer),
        ("lr_scheduler", lr_scheduler, settings.scheduler),
    ):
        if given is not None and section.type is not None:
            raise ConfigError(
                f"{name}: given to initialize, and named in the configuration"
                f" ({section.type}); remove one of them"
            )


def _link(experts: ExpertParallelConfig, device: torch.device) -> Link:
    """Returns how ranks exchange rows; `bitwise_across_ep_sizes` is true by default on CPUs."""
    if device.type == "cpu" and experts.dispatch == "push":
        raise ConfigError(
            'expert_parallel.dispatch: "push" needs a GPU per rank, and the ranks compute on CPUs;'
            " omit it"
        )
    is_bitwise = experts.bitwise_across_ep_sizes
    if is_bitwise is None:
        is_bitwise = device.type == "cpu"
    return Link(device, experts.timeout, "slots" if is_bitwise else "tokens", experts.dispatch)


def _rehearse(
    settings: Config,
    model: nn.Module,
    layers: list[MoELayer],
    model_parameters: ParameterGroups | None,
) -> None:
    """Builds the optimizer and scheduler once as a trial, to raise before the model is changed."""
    given = model.parameters() if model_parameters is None else model_parameters
    # Separate experts are stacked later, which adds a dimension.
    separate = (layer for layer in layers if layer.pieces and not layer.pieces.stacked)
    to_stack = {p for layer in separate for p in layer.experts.parameters()}
    dimensions = (p.ndim + (p in to_stack) for p in trained_parameters(given))
    optimizer = rehearse_optimizer(settings.optimizer, dimensions)
    if optimizer is not None:
        build_scheduler(settings.scheduler, optimizer)


def _choose_optimizer(
    given: Optimizer | Callable[..., Optimizer] | None,
    settings: Config,
    model_parameters: ParameterGroups | None,
    table: ParameterTable,
) -> Optimizer | None:
    if isinstance(given, Optimizer):
        if model_parameters is not None:
            raise ConfigError("model_parameters: given with an optimizer, which has its own")
        adopt_optimizer(given, table)
        return given
    parameters = model_parameters
    if parameters is None:
        parameters = (row.computing for row in table)
    if given is None:
        return build_optimizer(settings.optimizer, parameters, table)
    if not callable(given):
        raise ConfigError(
            f"optimizer: given {type(given).__name__}; allowed: a torch.optim.Optimizer, or a"
            " function that makes one of parameter groups"
        )
    return make_optimizer(given, parameters, table)


def _choose_scheduler(
    given: LRScheduler | Callable[[Optimizer], LRScheduler] | None,
    settings: Config,
    optimizer: Optimizer | None,
) -> LRScheduler | None:
    if given is None:
        return build_scheduler(settings.scheduler, optimizer)
    if optimizer is None:
        raise ConfigError("lr_scheduler: given without an optimizer; pass one, or name one")
    scheduler = given if hasattr(given, "step") else given(optimizer)
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ConfigError(
            "lr_scheduler: it schedules another optimizer; make it of the one given here"
        )
    return scheduler
