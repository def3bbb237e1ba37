"""The values that a configuration gives to the arguments of a class of torch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from autoep.config.schema import wrong_value


def check_values(kind: type, given: Mapping[str, Any], path: str) -> None:
    """Checks values against the defaults of a class's arguments, as far as possible.

    torch checks some of them itself, with `0.0 <= lr` and the like. A number that is a string in
    the JSON file then raises a TypeError that names neither the key nor the value.

    Args:
        kind: The class.
        given: The values, by the arguments' names.
        path: Their path in the configuration.

    Raises:
        ConfigError: One has another type than its default.
    """
    parameters = inspect.signature(kind).parameters
    for name, value in given.items():
        allowed = _allowed(parameters[name], value)
        if allowed is not None:
            raise wrong_value(f"{path}.{name}", value, allowed, _advice(value))


def _allowed(parameter: inspect.Parameter, value: Any) -> str | None:
    """Returns what an argument may be if the value does not fit; None if it does."""
    default = parameter.default
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float):
        return None if _is_number(value) else "a number"
    if isinstance(default, tuple) and all(map(_is_number, default)):
        fits = isinstance(value, list | tuple) and len(value) == len(default)
        return None if fits and all(map(_is_number, value)) else f"{len(default)} numbers"
    if isinstance(value, str) and not isinstance(default, str):
        takes_text = any(word in str(parameter.annotation) for word in ("str", "Literal", "Any"))
        return None if takes_text else "a value that is not a string"
    return None


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


def _advice(value: Any) -> str:
    parts = value if isinstance(value, list | tuple) else [value]
    return "Write it without quotes." if any(isinstance(part, str) for part in parts) else ""
