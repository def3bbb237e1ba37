"""The optimizer: built from the configuration, or the caller's own with sharded parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from autoep.config.schema import AUTO, nearest
from autoep.config.training import OptimizerConfig
from autoep.errors import ConfigError, ModelError
from autoep.layers.parameters import ParameterTable
from autoep.training.argument_values import check_values

ParameterGroups = Iterable[nn.Parameter] | Iterable[dict[str, Any]]

# Optimizers of torch that the engine refuses, each with the reason.
_UNFIT = {
    "LBFGS": "it computes the loss again within a step",
    "SparseAdam": "gradients are dense",
    "Adafactor": "its steps depend on norms of whole weights, and experts are sharded",
    "Rprop": "torch's does not step sharded experts",
    "Optimizer": "it is only the base of others",
}


# Optimizers of torch that step weights of two dimensions only.
_MATRICES_ONLY = ("Muon",)


def rehearse_optimizer(config: OptimizerConfig, dimensions: Iterable[int]) -> Optimizer | None:
    """Builds the optimizer once as a trial, to raise before the model is changed.

    Args:
        config: The section `optimizer`.
        dimensions: The numbers of dimensions of the weights to step.
    """
    dimensions = sorted(set(dimensions)) or [2]
    if (config.type or "").lower() in map(str.lower, _MATRICES_ONLY) and dimensions != [2]:
        raise ConfigError(
            f"config: optimizer.type: given {config.type!r}, which steps weights of two dimensions"
            f" only; got some of {', '.join(str(d) for d in dimensions if d != 2)} (the experts of"
            " a layer have three). Give the others to model_parameters"
            " ([p for p in model.parameters() if p.ndim == 2]), or pass an optimizer that has"
            " both, or name another"
        )
    probes = nn.ParameterList([torch.zeros([1] * count) for count in dimensions])
    return build_optimizer(config, probes.parameters(), ParameterTable(probes, (), {}))


def build_optimizer(
    config: OptimizerConfig, parameters: ParameterGroups, table: ParameterTable
) -> Optimizer | None:
    """Builds the optimizer that the configuration names; returns None if it names none.

    Args:
        config: The section `optimizer`.
        parameters: The parameters to train, or groups of them with options of their own.
        table: The model's parameters.
    """
    if config.type is None:
        if config.params:
            raise ConfigError('config: optimizer.type: missing; name one, such as "AdamW"')
        return None
    name, params = _torch_names(config)
    kind = find_class(torch.optim, Optimizer, name, "optimizer.type", exclude=_UNFIT)
    groups = _split_sharded(_trained_groups(parameters, table))
    return construct(kind, groups, params, "optimizer.params")


def adopt_optimizer(optimizer: Optimizer, table: ParameterTable) -> None:
    """Gives the caller's optimizer the parameters to step; its groups and options are kept.

    Raises:
        ModelError: It has state, which belongs to its previous parameters, or its class cannot
            step sharded experts.
    """
    _check_kind(optimizer)
    if optimizer.state:
        raise ModelError(
            f"the optimizer ({type(optimizer).__name__}) already has state, which would be lost:"
            " its parameters are replaced by sharded ones. Pass one that has not stepped, or a"
            " function that makes it from the parameters, or name it in the configuration."
        )
    groups = optimizer.param_groups
    parts = _to_step((group["params"] for group in groups), table)
    for group, part in zip(groups, parts, strict=True):
        group["params"] = part
        _check_unmixed(group)


def make_optimizer(
    make: Callable[[list[dict[str, Any]]], Optimizer],
    parameters: ParameterGroups,
    table: ParameterTable,
) -> Optimizer:
    """Calls the caller's function with groups of the parameters to step."""
    optimizer = make(_split_sharded(_trained_groups(parameters, table)))
    _check_kind(optimizer)
    return optimizer


def _check_kind(optimizer: Optimizer) -> None:
    name = type(optimizer).__name__
    if name in _UNFIT:
        raise ModelError(f"the optimizer is {name}, which cannot be used here: {_UNFIT[name]}")


def find_class(
    module: Any,
    base: type,
    name: str,
    path: str,
    *,
    exclude: Mapping[str, str],
    also: Sequence[str] = (),
) -> type:
    """Finds a class of a module by its name, ignoring case.

    Args:
        module: The module to search.
        base: The base class of those allowed.
        name: The name given.
        path: The path of its key in the configuration.
        exclude: Classes that cannot be used, each with the reason.
        also: Names that the error lists as well, because the caller finds them elsewhere.

    Raises:
        ConfigError: There is no such class.
    """
    known = {
        attribute.lower(): value
        for attribute, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and attribute not in exclude
        if not attribute.startswith("_")
    }
    if name.lower() in known:
        return known[name.lower()]
    names = sorted({*also, *(value.__name__ for value in known.values())})
    for excluded, reason in exclude.items():
        if name.lower() == excluded.lower():
            raise ConfigError(
                f"config: {path}: given {name!r}, which cannot be used here: {reason}. Allowed:"
                f" {', '.join(names)}."
            )
    raise ConfigError(
        f"config: {path}: given {name!r}; allowed: {', '.join(names)}.{nearest(name, names)}"
    )


def construct(kind: type, first: Any, params: dict[str, Any], path: str) -> Any:
    """Constructs an optimizer or scheduler; "auto" leaves an argument at torch's default.

    Raises:
        ConfigError: It has no such argument, or refuses its value.
    """
    given = {name: value for name, value in params.items() if value != AUTO}
    allowed = list(inspect.signature(kind).parameters)[1:]
    for name in given:
        if name not in allowed:
            raise ConfigError(
                f"config: {path}.{name}: {kind.__name__} has no such argument."
                f"{nearest(name, allowed)} Allowed: {', '.join(allowed)}."
            )
    check_values(kind, given, path)
    try:
        return kind(first, **given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"config: {path}: {kind.__name__} refuses them: {error}") from error


def _torch_names(config: OptimizerConfig) -> tuple[str, dict[str, Any]]:
    """Translates DeepSpeed's Adam: its weight decay is AdamW's unless adam_w_mode is false."""
    params = dict(config.params)
    if config.type.lower() not in ("adam", "adamw"):
        return config.type, params
    params.pop("torch_adam", None)  # selects an implementation; there is one
    decoupled = params.pop("adam_w_mode", AUTO)
    if config.type.lower() == "adamw":
        return config.type, params
    if decoupled == AUTO and params.get("weight_decay", 0) not in (0, AUTO):
        raise ConfigError(
            f"config: optimizer.type: {config.type!r} with weight_decay means AdamW to DeepSpeed"
            ' and L2 regularisation to torch. Write "AdamW", or set'
            " optimizer.params.adam_w_mode to true or false."
        )
    return ("AdamW" if decoupled is True else config.type), params


def trained_parameters(parameters: ParameterGroups) -> list[nn.Parameter]:
    """Returns the parameters, or those of the groups, that require a gradient.

    Raises:
        ModelError: They are neither parameters nor groups.
    """
    return [p for group in _groups(parameters) for p in _listed(group) if p.requires_grad]


def _groups(parameters: ParameterGroups) -> list[Any]:
    given = list(parameters) if isinstance(parameters, Iterable) else [parameters]
    return given if given and isinstance(given[0], dict) else [{"params": given}]


def _trained_groups(parameters: ParameterGroups, table: ParameterTable) -> list[dict[str, Any]]:
    groups = _groups(parameters)
    trained = _to_step(([p for p in _listed(g) if p.requires_grad] for g in groups), table)
    return [{**group, "params": part} for group, part in zip(groups, trained, strict=True)]


def _to_step(
    groups: Iterable[list[nn.Parameter]], table: ParameterTable
) -> list[list[nn.Parameter]]:
    """Returns the parameters to step for those that the caller knows, each of them once.

    Raises:
        ModelError: A parameter is in two groups: several experts may have been stacked into one.
    """
    distinct = [list(dict.fromkeys(map(table.optimizer_parameter_of, group))) for group in groups]
    if len({p for group in distinct for p in group}) < sum(map(len, distinct)):
        raise ModelError(
            "a parameter is in two groups of the optimizer. The experts of a layer are stacked"
            " into one tensor per weight: put all experts of a layer into one group"
        )
    return distinct


def _listed(group: object) -> list[nn.Parameter]:
    params = group.get("params") if isinstance(group, dict) else None
    listed = [params] if isinstance(params, torch.Tensor) else params
    if isinstance(listed, Iterable):
        listed = list(listed)
        if all(isinstance(parameter, nn.Parameter) for parameter in listed):
            return listed
    raise ModelError(
        "model_parameters: expected parameters of the model, or groups of them such as"
        f' {{"params": [...], "lr": 1e-4}}; got {str(group)[:200]}'
    )


def _split_sharded(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Separates plain and sharded parameters: torch's fused steps take one kind per group."""
    return [
        {**group, "params": part}
        for group in groups
        for sharded in (False, True)
        for part in [[p for p in group["params"] if isinstance(p, DTensor) == sharded]]
        if part
    ]


def _check_unmixed(group: dict[str, Any]) -> None:
    fused = [name for name in ("foreach", "fused") if group.get(name)]
    if fused and len({isinstance(p, DTensor) for p in group["params"]}) == 2:
        raise ModelError(
            f"an optimizer group with {fused[0]}=True holds experts and other parameters, which"
            " torch cannot step together. Give the experts a group of their own, or leave"
            f" {fused[0]} out."
        )
