"""The two orders in which `autoep.initialize` takes its arguments by position."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from autoep.config.schema import nearest
from autoep.errors import ConfigError

Result = TypeVar("Result")


def takes_model_first(function: Callable[..., Result]) -> Callable[..., Result]:
    """Lets a function in DeepSpeed's order, (args, model, ..., config), also start with the model.

    If the first positional argument is a module, the order is (model, config, ...), followed by
    the other arguments in DeepSpeed's order.
    """
    as_deepspeed = list(inspect.signature(function).parameters)
    others = [name for name in as_deepspeed if name not in ("model", "config", "args")]
    model_first = ["model", "config", *others]

    @functools.wraps(function)
    def wrapper(*given: Any, **named: Any) -> Result:
        is_model_first = bool(given) and isinstance(given[0], nn.Module)
        order = model_first if is_model_first else as_deepspeed
        return function(**_by_name(function.__name__, order, as_deepspeed, given, named))

    return wrapper


def _by_name(
    function: str, order: list[str], known: list[str], given: tuple, named: dict[str, Any]
) -> dict[str, Any]:
    """Returns all arguments by name.

    Raises:
        ConfigError: One is given twice, there are too many, or there is no such argument.
    """
    call = f"{function}({', '.join(order)})"
    for name in named:
        if name not in known:
            raise ConfigError(
                f"{name}: {function} has no such argument.{nearest(name, known)} Allowed:"
                f" {', '.join(known)}."
            )
    if len(given) > len(order):
        raise ConfigError(
            f"{function}: given {len(given)} arguments by position; expected at most"
            f" {len(order)}: {call}"
        )
    by_position = dict(zip(order, given, strict=False))
    for name, value in by_position.items():
        if name in named:
            raise ConfigError(
                f"{name}: given twice, by position ({type(value).__name__}) and by name"
                f" ({type(named[name]).__name__}); the order is {call}. Remove one of them"
            )
    return {**by_position, **named}
